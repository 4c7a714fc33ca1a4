"""PLOT: N text contexts, matched with the spatial features of an image by optimal transport (arXiv 2210.01253)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from prompting.heads import cosine_logits
from prompting.methods.base import OptionsT, PromptedCLIP
from prompting.methods.contexts import ContextOptions, learned_contexts
from prompting.ot import HierarchicalInput, HierarchicalOT


@dataclass(frozen=True)
class PLOTOptions(ContextOptions):
    """Settings of PLOT."""

    ctx_init: str = ""  # initial words of the first context; "" initialises it at random
    n: int = 4  # N contexts
    trade_off: bool = False  # add the logits of the pooled features (as published for ImageNet)


class TransportCLIP(PromptedCLIP[OptionsT]):
    """A CLIP scored by the transport between a set of image features and the N prompt features of a class.

    logits = <T, cos> / tau, where T is the entropic plan (lambda 0.1) for the cost 1 - cos: ALIGN in the reading
    ``released`` without the token level.
    """

    head: HierarchicalOT
    adds_pooled = False  # whether the logits of the pooled features are added

    def make_head(self) -> HierarchicalOT:
        """Return the head."""
        return HierarchicalOT(reading="released", hierarchical=False, all_reduce_sum=self.all_reduce_sum)

    def image_set(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features to transport (B, M, D), and the pooled feature (B, D)."""
        raise NotImplementedError

    def text_features(self) -> Tensor:
        """Return the prompt features (K, N, D) of the classes."""
        return self.cached(lambda: self.text_encoder(self.tokens, self.prompt_learner().text).prompt)

    def head_input(self, images: Tensor) -> HierarchicalInput:
        """Return the features that the head scores; ``self.head.score`` takes them and can return the plans."""
        return HierarchicalInput(self.image_set(images)[0], self.text_features())

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of ``images`` (B, 3, H, W)."""
        text = self.text_features()
        features, pooled = self.image_set(images)
        logits = self.head(features, text, logit_scale=self.logit_scale).logits
        return logits + cosine_logits(pooled, text.mean(1), self.logit_scale) if self.adds_pooled else logits


class PLOT(TransportCLIP[PLOTOptions]):
    """PLOT: the image's set is its spatial features, from a ResNet's attention pool or a ViT's patches."""

    name = "PLOT"
    options_class = PLOTOptions
    transports_patches = True

    def build(self, classnames: Sequence[str], options: PLOTOptions) -> None:
        self.head, self.adds_pooled = self.make_head(), options.trade_off
        self.prompt_learner, self.tokens = learned_contexts(
            options, options.n, classnames, self.clip, [options.ctx_init]
        )

    def image_set(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the O spatial features (B, O, D), and the pooled feature (B, D)."""
        image = self.image_encoder(images, return_tokens=True)
        return image.tokens[:, 0], image.prompt[:, 0]
