"""CoCoOp: a learned text context, shifted by a small network that reads the image feature (arXiv 2203.05557)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompting.clip import tokenize_prompts, word_vectors
from prompting.clip.blocks import maybe_recompute
from prompting.clip.tokens import clean_name
from prompting.heads import cosine_logits
from prompting.learners import TextPrompts
from prompting.methods.base import Options, PromptedCLIP

MAX_PROMPTS = 512  # prompts (images x classes) in one run of the text tower


@dataclass(frozen=True)
class CoCoOpOptions(Options):
    """Settings of CoCoOp."""

    n_ctx: int = 16  # b, vectors of a context
    ctx_init: str = ""  # initial words of the context; "" initialises it at random


class ConditionalPrompts(TextPrompts):
    """A context t (b, d_l) and the network that maps an image feature (D) to its shift pi(x) (d_l)."""

    def __init__(self, length: int, width: int, embed_dim: int, init: Sequence[Tensor]) -> None:
        super().__init__(None, length, width, init=init)
        hidden = max(1, embed_dim // 16)
        self.meta_net = nn.Sequential()
        self.meta_net.add_module("linear1", nn.Linear(embed_dim, hidden))
        self.meta_net.add_module("relu", nn.ReLU(inplace=True))
        self.meta_net.add_module("linear2", nn.Linear(hidden, width))

    def contexts(self, image: Tensor) -> Tensor:
        """Return t + pi(x) of Eq. 3 for unit image features (B, D): one context per image, (B, b, d_l)."""
        return self.ctx + self.meta_net(image.float()).unsqueeze(1)


class CoCoOp(PromptedCLIP[CoCoOpOptions]):
    """CLIP whose class features depend on the image."""

    name = "CoCoOp"
    options_class = CoCoOpOptions
    chunks_text = True
    prompt_learner: ConditionalPrompts

    def build(self, classnames: Sequence[str], options: CoCoOpOptions) -> None:
        words = options.ctx_init
        length = len(clean_name(words).split()) or options.n_ctx
        start = [word_vectors(self.clip, words, length)] if words else []
        self.prompt_learner = ConditionalPrompts(length, self.shape.text_width, self.shape.embed_dim, start)
        self.tokens = tokenize_prompts(classnames, n_ctx=length, prefixes=[words], clip_model=self.clip)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of ``images`` (B, 3, H, W).

        At most ``MAX_PROMPTS`` prompts run at once, so that memory grows with neither B nor K.
        """
        image = F.normalize(self.image_encoder(images).prompt[:, 0], dim=-1)  # (B, D)
        contexts = self.prompt_learner.contexts(image)  # (B, b, d_l)
        number = self.tokens.ids.shape[1]
        classes = [slice(i, min(i + MAX_PROMPTS, number)) for i in range(0, number, MAX_PROMPTS)]
        step = max(1, MAX_PROMPTS // min(MAX_PROMPTS, number))
        chunked = len(classes) > 1 or len(images) > step
        rows = [
            torch.cat([maybe_recompute(chunked, self.logits, features, shifted, chosen) for chosen in classes], dim=1)
            for features, shifted in zip(image.split(step), contexts.split(step))
        ]
        return torch.cat(rows)

    def logits(self, image: Tensor, contexts: Tensor, classes: slice) -> Tensor:
        """Return the logits (B', k) of unit image features (B', D), with contexts (B', b, d_l), for k classes."""
        text = self.text_encoder(self.tokens.select(classes), contexts).prompt  # (k, B', D): one prompt per image
        return cosine_logits(image, text.transpose(0, 1), self.logit_scale)
