"""CoCoOp: a learned text context, shifted by what a small network reads off the image (arXiv 2203.05557)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prompting.clip import tokenize_prompts, word_vectors
from prompting.clip.tokens import clean_name
from prompting.heads import cosine_logits
from prompting.learners import TextPrompts
from trainers.base import PromptedCLIP, PromptTrainer

MAX_PROMPTS = 512  # prompts (images x classes) that run through the text tower at once


class ConditionalPrompts(TextPrompts):
    """A context t (b, d_l) and the network that turns an image feature into its shift pi (d_l).

    Args:
        length: b.
        width: d_l.
        embed_dim: D.
        init: starting values of the context, (b, d_l), or nothing.
    """

    def __init__(self, length: int, width: int, embed_dim: int, init: Sequence[Tensor]) -> None:
        super().__init__(None, length, width, init=init)
        hidden = max(1, embed_dim // 16)
        self.meta_net = nn.Sequential()
        self.meta_net.add_module("linear1", nn.Linear(embed_dim, hidden))
        self.meta_net.add_module("relu", nn.ReLU(inplace=True))
        self.meta_net.add_module("linear2", nn.Linear(hidden, width))

    def contexts(self, image: Tensor) -> Tensor:
        """Return t + pi(x) of Eq. 3 for normalised image features (B, D), one context an image: (B, b, d_l)."""
        return self.ctx + self.meta_net(image.float()).unsqueeze(1)


class CustomCLIP(PromptedCLIP):
    """CLIP whose class features depend on the image."""

    node = "COCOOP"
    own_parts = True

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        length = len(clean_name(own.CTX_INIT).split()) or own.N_CTX
        words = [word_vectors(self.clip, own.CTX_INIT, length)] if own.CTX_INIT else []
        self.prompt_learner = ConditionalPrompts(length, self.shape.text_width, self.shape.embed_dim, words)
        self.tokens = tokenize_prompts(classnames, n_ctx=length, prefixes=[own.CTX_INIT], clip_model=self.clip)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits for ``images`` (B, 3, H, W); memory grows with neither B nor K."""
        image = F.normalize(self.image_encoder(images).prompt[:, 0], dim=-1)  # (B, D)
        contexts = self.prompt_learner.contexts(image)
        classes = self.tokens.ids.shape[1]
        step_k = min(classes, MAX_PROMPTS)
        step_b = max(1, MAX_PROMPTS // step_k)
        whole = len(images) <= step_b and classes <= step_k
        rows = []
        for b in range(0, len(images), step_b):
            some = slice(b, b + step_b)
            columns = [
                self.some_logits(image[some], contexts[some], k, step_k, whole) for k in range(0, classes, step_k)
            ]
            rows.append(torch.cat(columns, 1))
        return torch.cat(rows)

    def some_logits(self, image: Tensor, contexts: Tensor, start: int, step: int, whole: bool) -> Tensor:
        """Return the logits of some images and of the ``step`` classes from ``start`` on.

        Where they are not the ``whole``, the backward pass computes them again instead of keeping what they took.
        """
        tokens = self.tokens.select(slice(start, start + step)).to(image.device)

        def compute(image: Tensor, contexts: Tensor) -> Tensor:
            text = self.text_encoder(tokens, contexts).prompt  # (K, B, D): one prompt an image
            return cosine_logits(image, text.transpose(0, 1), self.logit_scale)

        if whole or not torch.is_grad_enabled():
            return compute(image, contexts)
        return checkpoint(compute, image, contexts, use_reentrant=False)


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """Learns a context and a network that shifts it for each image."""

    model_name = saved_part = "prompt_learner"
    model_class = CustomCLIP
    defaults = {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"}
