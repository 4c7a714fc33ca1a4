"""UPT: one shared prompt, from which a one-block transformer makes the prompts of both towers (arXiv 2210.07225).

From the paper (parts of its text could be read): one shared prompt U; a transformer block U' = SA(U) + LN(U),
V = FFN(LN(U')) + LN(U'); V split into the prompts of the two towers; frozen towers; cross entropy.

A public trainer of this name agrees in: the width of U (d_l) and its start N(0, 0.02); 4 vectors for each tower; an FFN
as wide as U; a linear map to d_v.

That trainer differs in: one head (here heads as wide as CLIP's), ReLU (here GELU), dropout 0.1 (here none, so that
training and evaluation see the same prompts), LN(U + SA(U)) and a plain residual (here the paper's formulas), prompts
at the input only (here deep prompts, one U per block of the towers; depth 1 equals that trainer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prompting.clip import tokenize_prompts
from prompting.learners import UnifiedPrompts
from prompting.methods.base import CosineCLIP, Options


@dataclass(frozen=True)
class UPTOptions(Options):
    """Settings of UPT."""

    n_ctx_text: int = 4
    n_ctx_vision: int = 4
    prompt_depth: int = 9  # number of blocks of each tower with prompts, the first included


class UPT(CosineCLIP[UPTOptions]):
    """CLIP with one text and one visual prompt, both made from one shared prompt."""

    name = "UPT"
    options_class = UPTOptions

    def build(self, classnames: Sequence[str], options: UPTOptions) -> None:
        self.shape.check_depth(text=options.prompt_depth, vision=options.prompt_depth)
        lengths, widths = (options.n_ctx_text, options.n_ctx_vision), (self.shape.text_width, self.shape.vision_width)
        self.prompt_learner = UnifiedPrompts(*lengths, *widths, options.prompt_depth)
        self.tokens = tokenize_prompts(classnames, n_ctx=options.n_ctx_text, clip_model=self.clip)
