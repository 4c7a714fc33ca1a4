"""VPT: learned visual prompts, shallow or deep, beside a fixed sentence (arXiv 2203.12119, as on CLIP in MaPLe)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY

from prompting.clip import tokenize_prompts
from prompting.learners import VisualPrompts
from trainers.base import CosineCLIP, PromptTrainer, tower_names


class CustomCLIP(CosineCLIP):
    """CLIP with one learned visual prompt and the sentence "<CTX_INIT> <class name>."."""

    node = "VPT"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        self.shape.check_depth(vision=own.PROMPT_DEPTH_VISION)
        width, depth = self.shape.vision_width, own.PROMPT_DEPTH_VISION
        self.prompt_learner = VisualPrompts(None, own.N_CTX_VISION, width, depth)
        self.names = tower_names("prompt_learner", "image_encoder", depth)
        self.tokens = tokenize_prompts(classnames, n_ctx=0, prefixes=[own.CTX_INIT], clip_model=self.clip)


@TRAINER_REGISTRY.register()
class VPT(PromptTrainer):
    """Learns visual prompts."""

    model_name = "prompt_learner"
    model_class = CustomCLIP
    defaults = {"N_CTX_VISION": 2, "CTX_INIT": "a photo of a", "PREC": "fp16", "PROMPT_DEPTH_VISION": 1}
