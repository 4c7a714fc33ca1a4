"""Learned visual prompts: the vectors after the image patches, and the deep prompts of later blocks."""

from torch import nn

from prompting.learners.textual import Prompts, check_positive, deep_prompts, random_prompt, with_prompt_axis


class VisualPrompts(nn.Module):
    """M learned visual prompts v^1 .. v^M of b vectors, and learned replacements in later blocks (deep prompts).

    Args:
        number: M, or None for a single prompt, stored without the prompt axis.
        length: b, number of vectors in a prompt.
        width: d_v, the vision tower's width.
        depth: number of blocks with prompts, the first included; 0 learns no visual prompts.

    Raises:
        ValueError: a number or length below 1 with a depth above 0.

    Source: section 3.1 of the paper; VPT (arXiv 2203.12119).
    """

    def __init__(self, number: int | None, length: int, width: int, depth: int = 1) -> None:
        super().__init__()
        if depth:
            check_positive("visual", number=number, length=length)
        shape = (length, width) if number is None else (number, length, width)
        self.ctx = nn.Parameter(random_prompt(*shape)) if depth > 0 else None
        self.deep = deep_prompts(depth, *shape)

    def forward(self) -> Prompts:
        """Return visual prompts only."""
        if self.ctx is None:
            return Prompts()
        return Prompts(visual=with_prompt_axis(self.ctx), deep_visual=[with_prompt_axis(p) for p in self.deep])
