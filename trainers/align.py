"""ALIGN: M visual and N text prompts, matched by a hierarchical optimal transport (NeurIPS 2023, arXiv 2309.13847)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn
from yacs.config import CfgNode

from prompting.clip import TextFeatures, token_set_mask, tokenize_prompts, word_vectors
from prompting.learners import IndependentPrompts, ProjectedPrompts, Prompts, TextPrompts, VisualPrompts
from prompting.ot import HierarchicalOT
from prompting.ot.checks import check_choice
from trainers.base import PromptedCLIP, PromptTrainer, add_node
from trainers.log import logger


class CustomCLIP(PromptedCLIP):
    """CLIP whose logits are the negative distances between an image's visual prompts and a class's text prompts."""

    node = "ALIGN"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        check_image_set(own)
        self.transports_patches = own.IMAGE_SET == "patches"
        words = own.CTX_INIT.split("\t")[: own.TEXT_PROMPT_NUMBER] if own.CTX_INIT else []
        length = own.N_CTX if own.TEXT_PROMPT_DEPTH else 0  # without learned text the words stay as they are
        init = [word_vectors(self.clip, text, length) for text in words] if length else []
        self.prompt_learner = self.learner(own, init)
        self.tokens = tokenize_prompts(
            classnames,
            n_ctx=length,
            prefixes=words + [""] * (own.TEXT_PROMPT_NUMBER - len(words)),
            clip_model=self.clip,
        )
        self.token_set = token_set_mask(self.tokens, own.READING)  # (N, K, T)
        self.head = HierarchicalOT(
            reading=own.READING,
            beta=own.BETA,
            lambda_prompt=own.LAMBDA_PROMPT,
            lambda_token=own.LAMBDA_TOKEN,
            max_iter=own.MAX_ITER,
            tol=own.TOL,
            gradient=own.GRADIENT,
            engine=own.ENGINE,
        )
        self.constant_tokens = not (self.head.learns_tokens or self.transports_patches)

    def learner(self, own: Any, init: Sequence[Tensor]) -> nn.Module:
        """Return the learned prompts; ``init`` holds the first text prompts that start from words, (b, d_l) each."""
        check_coupling(own)
        self.shape.check_depth(text=own.TEXT_PROMPT_DEPTH, vision=own.VISION_PROMPT_DEPTH)
        text = own.TEXT_PROMPT_NUMBER, own.N_CTX, self.shape.text_width
        if own.COUPLING == "projected":
            return ProjectedPrompts(*text, self.shape.vision_width, own.TEXT_PROMPT_DEPTH, init)
        visual = own.VISION_PROMPT_NUMBER, own.N_CTX, self.shape.vision_width
        return IndependentPrompts(
            TextPrompts(*text, own.TEXT_PROMPT_DEPTH, init), VisualPrompts(*visual, own.VISION_PROMPT_DEPTH)
        )

    def class_features(self, prompts: Prompts) -> TextFeatures:
        """Return h (K, N, D) and, where the token level is used, s (K, N, L, D) with its mask (K, N, L)."""
        token_set = self.token_set if self.head.uses_tokens else None
        return self.text_encoder(
            self.tokens, prompts.text, prompts.deep_text, token_set=token_set, detach_tokens=self.constant_tokens
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, K) logits (1 - d(X, k)) / tau of Eq. 7 for ``images`` (B, 3, H, W)."""
        prompts = self.prompt_learner()
        image = self.image_encoder(
            images,
            prompts.visual,
            prompts.deep_visual,
            return_tokens=self.head.uses_tokens or self.transports_patches,
            detach_tokens=self.constant_tokens,
        )
        text = self.cached(lambda: self.class_features(prompts))
        visual = image.prompt
        if self.transports_patches:
            visual = image.tokens[:, :, : self.shape.patches].flatten(1, 2)  # (B, M * O, D)
        score = self.head(
            visual, text.prompt, image.tokens, text.tokens, s_mask=text.mask, logit_scale=self.logit_scale
        )
        return score.logits


class ReleasedCLIP(CustomCLIP):
    """The same from a config with the node ``TRAINER.MMP`` of the authors' YAML files: the `released` reading."""

    node = "MMP"

    @classmethod
    def settings(cls, cfg: Any) -> Any:
        """Return ``TRAINER.MMP`` in the keys of ``TRAINER.ALIGN``, with what the released code fixes."""
        released = cfg.TRAINER.MMP
        if released.USECT:
            raise ValueError("TRAINER.MMP.USECT is True, which the released code cannot run; set it to False")
        long = released.CTX_INIT and released.N_CTX > 4
        if long:
            logger.warning("N_CTX is above 4: every prompt starts at random, as in the released code")
        return CfgNode(
            {
                **released,
                "CTX_INIT": "" if long else released.CTX_INIT,
                "VISION_PROMPT_DEPTH": released.TEXT_PROMPT_DEPTH,  # the released code never reads its own
                "COUPLING": "projected",
                "IMAGE_SET": "prompts",
                "READING": "released",
                "BETA": 1.0 if released.HIERARCHICAL else 0.0,
                "LAMBDA_PROMPT": 0.1,
                "LAMBDA_TOKEN": 0.1,
                "MAX_ITER": 100,
                "TOL": 0.01,
                "GRADIENT": "envelope",
                "ENGINE": "torch",
            }
        )


def check_coupling(own: Any) -> None:
    """Raise ``ValueError`` for numbers and depths of prompts that the coupling cannot give."""
    check_choice("TRAINER.ALIGN.COUPLING", own.COUPLING, ("projected", "independent"))
    if own.COUPLING == "independent":
        return
    if own.TEXT_PROMPT_DEPTH == 0:
        raise ValueError("TEXT_PROMPT_DEPTH is 0 under COUPLING projected; allowed: 1 or more, or COUPLING independent")
    for what in ("NUMBER", "DEPTH"):
        vision, text = own[f"VISION_PROMPT_{what}"], own[f"TEXT_PROMPT_{what}"]
        if vision != text:
            raise ValueError(
                f"VISION_PROMPT_{what} is {vision} and TEXT_PROMPT_{what} {text}: under COUPLING projected, where "
                "visual prompts are projected from text prompts, they are equal (COUPLING independent leaves both free)"
            )


def check_image_set(own: Any) -> None:
    """Raise ``ValueError`` for a visual set of the prompt level that does not exist, or has no tokens below it."""
    check_choice("TRAINER.ALIGN.IMAGE_SET", own.IMAGE_SET, ("prompts", "patches"))
    if own.IMAGE_SET == "patches" and own.BETA > 0:
        raise ValueError(
            f"TRAINER.ALIGN.BETA is {own.BETA} with IMAGE_SET patches, where the patches are the prompt level and no "
            "token level is left below them: set BETA to 0, or IMAGE_SET to prompts"
        )


@TRAINER_REGISTRY.register()
class ALIGN(PromptTrainer):
    """ALIGN as the paper states it (``READING: paper``), or as its code computes it (``READING: released``)."""

    model_name = "MultiModalPromptLearner"
    model_class = CustomCLIP
    defaults = {
        "N_CTX": 2,  # b
        "CTX_INIT": "a photo of a",  # words the first text prompts start from, one prompt each, tab-separated
        "PREC": "auto",
        "TEXT_PROMPT_NUMBER": 4,  # N
        "VISION_PROMPT_NUMBER": 4,  # M
        "TEXT_PROMPT_DEPTH": 9,  # blocks that see prompts, the input included; 0 learns none
        "VISION_PROMPT_DEPTH": 9,
        "COUPLING": "projected",  # or independent
        "IMAGE_SET": "prompts",  # or patches: what the prompt level transports on the visual side (patches as in PLOT)
        "READING": "paper",  # or released
        "BETA": 1.0,
        "LAMBDA_PROMPT": 0.1,
        "LAMBDA_TOKEN": 0.1,
        "MAX_ITER": 100,
        "TOL": 0.01,
        "GRADIENT": "envelope",  # or unrolled
        "ENGINE": "torch",  # or auto, which takes the Triton kernel on CUDA where it can; triton insists on it
    }


@TRAINER_REGISTRY.register()
class MMP(ALIGN):
    """ALIGN under the name and keys of the authors' YAML files, which means the `released` reading."""

    model_class = ReleasedCLIP
    defaults = {
        "N_CTX": 2,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "TEXT_PROMPT_DEPTH": 1,
        "VISION_PROMPT_DEPTH": 1,
        "TEXT_PROMPT_NUMBER": 4,
        "VISION_PROMPT_NUMBER": 4,
        "HIERARCHICAL": True,
        "USECT": False,
    }


def extend_cfg(cfg: Any) -> None:
    """Add the nodes of ALIGN and MMP to ``cfg.TRAINER``, for a ``train.py`` elsewhere (docs/plugin.md)."""
    for method in (ALIGN, MMP):
        add_node(cfg, method)
