"""The error for a value that is not one of the allowed words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(
    kind: str, given: object, allowed: Iterable[str], shown: int = 12, listing: str | None = None
) -> ValueError:
    """Return the error for a value that is not allowed, with the nearest allowed words.

    Args:
        kind: what the value names, e.g. ``"precision"``.
        given: the value that was found.
        allowed: the allowed words.
        shown: the most words that the message lists.
        listing: replaces the list in the message.

    Returns:
        A ``ValueError`` to raise.
    """
    words = sorted(allowed)
    near = difflib.get_close_matches(str(given), words, n=3, cutoff=0.5)
    listed = listing or ", ".join(words[:shown]) + (f", ... ({len(words)} in all)" if len(words) > shown else "")
    hint = f" Did you mean {' or '.join(repr(word) for word in near)}?" if near else ""
    return ValueError(f"unknown {kind} {given!r}; allowed: {listed}.{hint}")
