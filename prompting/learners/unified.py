"""One shared prompt for both towers, told apart by a transformer of one block."""

from __future__ import annotations

import torch
from torch import nn

from prompting.learners.textual import Prompts, check_positive, fresh

HEAD_WIDTH = 64  # of CLIP's own attention heads


class UnifiedPrompts(nn.Module):
    """A shared prompt U, from which one transformer block makes the text and the visual prompts.

    U' = SA(U) + LN(U),  V = FFN(LN(U')) + LN(U');  the first ``text_length`` vectors of V are the text prompt, the
    others, mapped linearly to d_v, the visual one. Each of ``depth`` blocks of the towers has a U of its own; the
    transformer block is the same for all. Self-attention runs over all vectors of one U, so that each of them moves
    the prompts of both towers.

    Args:
        text_length: vectors of a text prompt, at least 1.
        visual_length: vectors of a visual prompt, at least 1.
        width: d_l, in which U and the transformer block live.
        visual_width: d_v.
        depth: blocks of each tower that see prompts, the input included, at least 1.

    Raises:
        ValueError: a length or depth below 1.

    Source: UPT (arXiv 2210.07225, section 3.2).
    """

    def __init__(self, text_length: int, visual_length: int, width: int, visual_width: int, depth: int = 1) -> None:
        super().__init__()
        check_positive("unified", text_length=text_length, visual_length=visual_length, depth=depth)
        self.lengths = (text_length, visual_length)
        self.ctx = nn.Parameter(fresh(depth, text_length + visual_length, width))
        heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.proj = nn.Linear(width, visual_width)

    def forward(self) -> Prompts:
        """Return both sides of ``Prompts``, N = M = 1."""
        shared = self.ctx  # (depth, text_length + visual_length, d_l)
        with torch.autocast(shared.device.type, enabled=False):
            mixed = self.ln_2(self.attn(shared, shared, shared, need_weights=False)[0] + self.ln_1(shared))
            text, visual = (self.mlp(mixed) + mixed).split(self.lengths, dim=1)
            visual = self.proj(visual)
        first, *deep = zip(text.split(1), visual.split(1))
        return Prompts(first[0], [t for t, _ in deep], first[1], [v for _, v in deep])
