"""PLOT: N text contexts, matched with an image's spatial features by optimal transport (arXiv 2210.01253)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from prompting.heads import cosine_logits
from prompting.ot import HierarchicalOT
from trainers.base import PromptedCLIP, PromptTrainer
from trainers.coop import learned_contexts, own_start


class TransportCLIP(PromptedCLIP):
    """A CLIP scored by the transport between a set of features of the image and the N prompts of a class.

    The logits are scale * <T, cos>, T the entropic plan (lambda 0.1) for the cost 1 - cos: the flat, prompt-level
    part of ALIGN's released score.
    """

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        """Make the head; ``TRADE_OFF`` adds the cosine of the pooled features."""
        self.head = HierarchicalOT(reading="released", hierarchical=False, all_reduce_sum=self.all_reduce_sum)
        self.add_global = own.TRADE_OFF

    def image_set(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features to transport (B, M, D), and the pooled feature (B, D)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits for ``images`` (B, 3, H, W)."""
        text = self.cached(
            lambda: self.text_encoder(self.tokens, self.prompt_learner().text).prompt  # (K, N, D)
        )
        features, pooled = self.image_set(images)
        logits = self.head(features, text, logit_scale=self.logit_scale).logits
        return logits + cosine_logits(pooled, text.mean(1), self.logit_scale) if self.add_global else logits


class CustomCLIP(TransportCLIP):
    """PLOT: the image's set is its spatial features, of a ResNet's attention pool or a ViT's patches."""

    node = "PLOT"
    transports_patches = True

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        super().build(own, classnames)
        self.prompt_learner, self.tokens = learned_contexts(own, own.N, classnames, self.clip, own_start(own))

    def image_set(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the O spatial features (B, O, D), and the pooled one (B, D)."""
        image = self.image_encoder(images, return_tokens=True)
        return image.tokens[:, 0], image.prompt[:, 0]


@TRAINER_REGISTRY.register()
class PLOT(PromptTrainer):
    """Learns N text contexts and transports an image's regions to them."""

    model_name = saved_part = "prompt_learner"
    model_class = CustomCLIP
    defaults = {
        "N_CTX": 16,
        "CSC": False,
        "CTX_INIT": "",
        "PREC": "fp16",
        "CLASS_TOKEN_POSITION": "end",
        "N": 4,  # contexts
        "TRADE_OFF": False,  # add the global logits (as published for ImageNet)
    }
