"""One way to say that a word is not one of the known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(
    kind: str, given: object, allowed: Iterable[str], shown: int = 12, listing: str | None = None
) -> ValueError:
    """Return the error for a ``given`` value that is not among ``allowed``, with the nearest of them.

    Args:
        kind: what the value names, e.g. ``"precision"``.
        given: what was found.
        allowed: the words that would have been right.
        shown: how many of them the line lists at most.
        listing: what to say of them instead, where they are too many to list.

    Returns:
        A ``ValueError`` to raise.
    """
    words = sorted(allowed)
    near = difflib.get_close_matches(str(given), words, n=3, cutoff=0.5)
    listed = listing or ", ".join(words[:shown]) + (f", ... ({len(words)} in all)" if len(words) > shown else "")
    hint = f" Did you mean {' or '.join(repr(word) for word in near)}?" if near else ""
    return ValueError(f"unknown {kind} {given!r}; allowed: {listed}.{hint}")
