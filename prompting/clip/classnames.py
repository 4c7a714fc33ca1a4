"""Checks for class names that CLIP cannot tell apart: equal tokens, or nearly equal text features."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from prompting.clip.templates import fill
from prompting.clip.text import TextEncoder
from prompting.clip.tokens import clean_name, clip_tokenizer, tokenize_texts

_log = logging.getLogger("prompting")
SAME = 0.9999  # text features with this cosine or a larger one count as equal
ADVICE = "give other names (DATASET.CLASSNAMES, --classes)"


def check_tokens(names: Sequence[str], refuse: bool) -> None:
    """Compare the tokens of class names, without a CLIP; warn of equal ones.

    Raises:
        ValueError: a name has no token or a control character, or ``refuse`` (custom data) and two have equal tokens.
    """
    groups = defaultdict(list)
    for name in names:
        groups[tuple(clip_tokenizer().encode(clean_name(name)))].append(name)
    if wrong := next((name for name in names if any(unicodedata.category(c) in ("Cc", "Cs") for c in name)), None):
        raise ValueError(f"the class name {wrong!r:.100} has a line break, a control character or an unknown byte")
    if () in groups:
        raise ValueError(f"CLIP reads no token in the class name {groups[()][0]!r:.100}; {ADVICE}")
    _report([(a, b) for group in groups.values() for a, b in zip(group, group[1:])], "have the same tokens", refuse)


@torch.no_grad()
def check_features(clip: nn.Module, names: Sequence[str], template: str, refuse: bool) -> None:
    """Compare the text features of class names in a sentence with ``{}``, by a CLIP in float32; warn of equal ones.

    Raises:
        ValueError: ``refuse``, and two names have text features with a cosine of ``SAME`` or more.
    """
    names = list(dict.fromkeys(names))
    tokens, encoder = tokenize_texts([fill(template, name) for name in names], clip_model=clip), TextEncoder(clip)
    parts = [encoder(tokens.select(slice(k, k + 256))).prompt[:, 0] for k in range(0, len(names), 256)]
    features = F.normalize(torch.cat(parts).float(), dim=-1)
    pairs = []
    for k, feature in enumerate(features[:-1]):
        near = (features[k + 1 :] @ feature >= SAME).nonzero().flatten().tolist()
        pairs += [(names[k], names[k + 1 + i]) for i in near]
    _report(pairs, f"have text features with a cosine of {SAME} or more", refuse)


def _report(pairs: list[tuple[str, str]], problem: str, refuse: bool) -> None:
    if not pairs:
        return
    others = len(pairs) - 1
    more = f" (and {others:,} more pair{'s' * (others > 1)})" if others else ""
    found = (
        f"the class names {pairs[0][0]!r:.100} and {pairs[0][1]!r:.100}{more} are the same to this CLIP: they {problem}"
    )
    if refuse:
        raise ValueError(f"{found}; {ADVICE}, or a CLIP that knows them (MODEL.BACKBONE.NAME)")
    _log.warning("%s", found)
