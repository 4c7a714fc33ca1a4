"""Prompts for both towers: independent of each other, or visual prompts projected from text prompts."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from prompting.learners.textual import Prompts, TextPrompts, check_positive
from prompting.learners.visual import VisualPrompts


class IndependentPrompts(nn.Module):
    """N text and M visual prompts, learned independently (section 3.1 of the paper; M and N are free).

    Args:
        text: learner of the text prompts.
        visual: learner of the visual prompts.
    """

    def __init__(self, text: nn.Module, visual: VisualPrompts) -> None:
        super().__init__()
        self.text = text
        self.visual = visual

    def forward(self) -> Prompts:
        """Return text and visual prompts."""
        visual = self.visual()
        return self.text()._replace(visual=visual.visual, deep_visual=visual.deep_visual)


class ProjectedPrompts(TextPrompts):
    """Text prompts, and visual prompts v = F(t): one linear map for the input and one for each deep layer.

    All prompts share the maps, so M = N. The deep maps start as copies of one map.

    Args:
        number: N = M, or None for a single prompt, stored without the prompt axis.
        length: b.
        width: d_l.
        visual_width: d_v.
        depth: number of blocks of each tower with prompts, >= 1.
        init: initial values of the first text contexts, as in ``TextPrompts``.

    Raises:
        ValueError: a number, length or depth below 1.

    Source: MaPLe (arXiv 2210.03117, section 3.2); ALIGN's released code has the same coupling.
    """

    def __init__(
        self,
        number: int | None,
        length: int,
        width: int,
        visual_width: int,
        depth: int = 1,
        init: Sequence[Tensor] = (),
    ) -> None:
        check_positive("projected", depth=depth)
        super().__init__(number, length, width, depth, init)
        self.proj = nn.Linear(width, visual_width)
        layer = nn.Linear(width, visual_width)
        self.compound_prompt_projections = nn.ModuleList([copy.deepcopy(layer) for _ in range(depth - 1)])

    def forward(self) -> Prompts:
        """Return text and visual prompts."""
        text = super().forward()
        deep = [project(prompt) for project, prompt in zip(self.compound_prompt_projections, text.deep_text)]
        return text._replace(visual=self.proj(text.text), deep_visual=deep)
