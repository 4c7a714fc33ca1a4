"""One shared prompt, which a transformer block maps to the prompts of both towers."""

import torch
from torch import nn

from prompting.learners.textual import Prompts, check_positive, random_prompt

HEAD_WIDTH = 64  # width of the attention heads of CLIP


class UnifiedPrompts(nn.Module):
    """A shared prompt U, which one transformer block maps to a text and a visual prompt.

    U' = SA(U) + LN(U),  V = FFN(LN(U')) + LN(U');  the first ``text_length`` vectors of V are the text prompt; the
    others, mapped linearly to d_v, are the visual prompt. There is one U for each of ``depth`` blocks of the towers and
    one transformer block for all U. Self-attention runs over all vectors of one U, so that each vector changes the
    prompts of both towers.

    Args:
        text_length: number of vectors in the text prompt, >= 1.
        visual_length: number of vectors in the visual prompt, >= 1.
        width: d_l, the width of U and of the transformer block.
        visual_width: d_v.
        depth: number of blocks of each tower with prompts, the first included, >= 1.

    Raises:
        ValueError: a length or depth below 1.

    Source: UPT (arXiv 2210.07225, section 3.2).
    """

    def __init__(self, text_length: int, visual_length: int, width: int, visual_width: int, depth: int = 1) -> None:
        super().__init__()
        check_positive("unified", text_length=text_length, visual_length=visual_length, depth=depth)
        self.lengths = (text_length, visual_length)
        self.ctx = nn.Parameter(random_prompt(depth, text_length + visual_length, width))
        heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.proj = nn.Linear(width, visual_width)

    def forward(self) -> Prompts:
        """Return text and visual prompts, N = M = 1."""
        shared = self.ctx  # (depth, text_length + visual_length, d_l)
        with torch.autocast(shared.device.type, enabled=False):
            mixed = self.ln_2(self.attn(shared, shared, shared, need_weights=False)[0] + self.ln_1(shared))
            text, visual = (self.mlp(mixed) + mixed).split(self.lengths, dim=1)
            visual = self.proj(visual)
        first, *deep = zip(text.split(1), visual.split(1))
        return Prompts(first[0], [t for t, _ in deep], first[1], [v for _, v in deep])


class ReleasedUnifiedPrompts(nn.Module):
    """A shared prompt U, and the block that maps it to a text and a visual prompt in the authors' trainer.

    H = LN_1(U + out_proj(W_v U)),  O = H + W_2 relu(W_1 LN_2(H)), with dropout on attention weights, hidden units and
    both terms added; the first ``text_length`` vectors of O are the text prompt; the others, mapped linearly to d_v,
    are the visual prompt. Attention gets each vector as a sequence of length 1, so that a vector attends to itself
    alone: query and key projections receive no gradient, and the prompts of the two towers share weights only.

    Args:
        text_length: number of vectors in the text prompt, >= 1.
        visual_length: number of vectors in the visual prompt, >= 1.
        width: d_l, the width of U and of the block.
        visual_width: d_v.
        dropout: probability, in training.

    Raises:
        ValueError: a length below 1.

    Source: trainers/unified.py of the released code, with the same parameter names.
    """

    def __init__(
        self, text_length: int, visual_length: int, width: int, visual_width: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        check_positive("unified", text_length=text_length, visual_length=visual_length)
        self.lengths = (text_length, visual_length)
        self.uni_ctx = nn.Parameter(random_prompt(1, text_length + visual_length, width))
        self.self_attn = nn.MultiheadAttention(width, 1, dropout=dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Linear(width, visual_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self) -> Prompts:
        """Return text and visual prompts, N = M = 1."""
        shared = self.uni_ctx  # a sequence of length 1 for each of the text_length + visual_length vectors
        with torch.autocast(shared.device.type, enabled=False):
            attended = self.self_attn(shared, shared, shared, need_weights=False)[0]
            mixed = self.norm1(shared + self.dropout(attended))
            hidden = self.dropout(torch.relu(self.linear1(self.norm2(mixed))))
            text, visual = (mixed + self.dropout(self.linear2(hidden))).split(self.lengths, dim=1)
            return Prompts(text, visual=self.mlp(visual))
