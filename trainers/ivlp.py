"""IVLP: deep prompts in both towers, learned independently (the baseline of MaPLe, arXiv 2210.03117, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY

from prompting.clip import tokenize_prompts
from prompting.learners import IndependentPrompts, TextPrompts, VisualPrompts
from trainers.base import CosineCLIP, PromptTrainer, short_start, tower_names


class CustomCLIP(CosineCLIP):
    """CLIP with one text and one visual prompt, each learned by itself."""

    node = "IVLP"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        text_depth, vision_depth = own.PROMPT_DEPTH_TEXT, own.PROMPT_DEPTH_VISION
        self.shape.check_depth(text=text_depth, vision=vision_depth)
        words, init = short_start(own.CTX_INIT, own.N_CTX_TEXT, self.clip)
        self.prompt_learner = IndependentPrompts(
            TextPrompts(None, own.N_CTX_TEXT, self.shape.text_width, text_depth, init),
            VisualPrompts(None, own.N_CTX_VISION, self.shape.vision_width, vision_depth),
        )
        self.names = {
            **tower_names("prompt_learner.text", "text_encoder", text_depth),
            **tower_names("prompt_learner.visual", "image_encoder", vision_depth),
            "prompt_learner.text.ctx": "prompt_learner.ctx",
        }
        self.tokens = tokenize_prompts(classnames, n_ctx=own.N_CTX_TEXT, prefixes=[words], clip_model=self.clip)


@TRAINER_REGISTRY.register()
class IVLP(PromptTrainer):
    """Learns text and visual prompts independently."""

    model_name = "VLPromptLearner"
    model_class = CustomCLIP
    defaults = {
        "N_CTX_VISION": 2,
        "N_CTX_TEXT": 2,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH_VISION": 9,  # 0 learns no visual prompt
        "PROMPT_DEPTH_TEXT": 9,
    }
