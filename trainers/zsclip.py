"""Zero-shot CLIP: a hand-written sentence a class, nothing learned (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from prompting.clip import tokenize_texts
from prompting.clip.templates import fill, template_for
from prompting.heads import cosine_logits
from trainers.base import PromptedCLIP, PromptTrainer


class CustomCLIP(PromptedCLIP):
    """CLIP's own logits, scale * cos(image, sentence of the class)."""

    node = "ZSCLIP"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        template = own.TEMPLATE or template_for(self.dataset)
        self.tokens = tokenize_texts([fill(template, name) for name in classnames], clip_model=self.clip)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits for ``images`` (B, 3, H, W)."""
        text = self.cached(lambda: self.text_encoder(self.tokens))
        image = self.image_encoder(images)
        return cosine_logits(image.prompt[:, 0], text.prompt[:, 0], self.logit_scale)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """Evaluates CLIP with the hand-written sentence of each data set; there is nothing to train."""

    model_name = "zero_shot"
    model_class = CustomCLIP
    defaults = {"PREC": "auto", "TEMPLATE": ""}  # a sentence with {} for the class name; empty takes the data set's own
