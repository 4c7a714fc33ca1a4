"""Learned visual prompts: vectors behind the image patches, and their deep successors."""

from __future__ import annotations

from torch import nn

from prompting.learners.textual import Prompts, check_positive, deep_prompts, fresh, with_prompt_axis


class VisualPrompts(nn.Module):
    """M learned visual prompts v^1 .. v^M of b vectors, and fresh ones for the next blocks (deep prompts).

    Args:
        number: M, or ``None`` for one prompt that is stored without a leading axis.
        length: b, vectors in a prompt.
        width: d_v, the vision tower's width.
        depth: blocks that see prompts, the input included; 0 learns nothing on the visual side.

    Raises:
        ValueError: a number or length below 1 where there is a depth.

    Source: section 3.1 of the paper; VPT (arXiv 2203.12119).
    """

    def __init__(self, number: int | None, length: int, width: int, depth: int = 1) -> None:
        super().__init__()
        if depth:
            check_positive("visual", number=number, length=length)
        shape = (length, width) if number is None else (number, length, width)
        self.ctx = nn.Parameter(fresh(*shape)) if depth > 0 else None
        self.deep = deep_prompts(depth, *shape)

    def forward(self) -> Prompts:
        """Return the visual side of ``Prompts``."""
        if self.ctx is None:
            return Prompts()
        return Prompts(visual=with_prompt_axis(self.ctx), deep_visual=[with_prompt_axis(p) for p in self.deep])
