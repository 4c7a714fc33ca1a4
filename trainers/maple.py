"""MaPLe: deep text prompts, and visual prompts projected from them (arXiv 2210.03117)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY

from prompting.clip import tokenize_prompts
from prompting.learners import ProjectedPrompts
from trainers.base import CosineCLIP, PromptTrainer, short_start


class CustomCLIP(CosineCLIP):
    """CLIP with one text prompt and its projection as the visual one."""

    node = "MAPLE"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        self.shape.check_depth(text=own.PROMPT_DEPTH, vision=own.PROMPT_DEPTH)
        words, init = short_start(own.CTX_INIT, own.N_CTX, self.clip)
        widths = self.shape.text_width, self.shape.vision_width
        self.prompt_learner = ProjectedPrompts(None, own.N_CTX, *widths, own.PROMPT_DEPTH, init)
        self.tokens = tokenize_prompts(classnames, n_ctx=own.N_CTX, prefixes=[words], clip_model=self.clip)


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Learns text prompts and their projections to the vision tower."""

    model_name = "MultiModalPromptLearner"
    model_class = CustomCLIP
    defaults = {"N_CTX": 2, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH": 9}
