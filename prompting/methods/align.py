"""ALIGN: M visual and N text prompts, matched by a hierarchical optimal transport (NeurIPS 2023, arXiv 2309.13847)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from prompting.clip import TextFeatures, token_set_mask, tokenize_prompts, word_vectors
from prompting.learners import IndependentPrompts, ProjectedPrompts, Prompts, TextPrompts, VisualPrompts
from prompting.methods.base import Options, PromptedCLIP
from prompting.ot import HeadSettings, HierarchicalInput, HierarchicalOT
from prompting.ot.checks import check_choice

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ALIGNOptions(HeadSettings, Options):
    """Settings of ALIGN: those of the head (``prompting.ot.HeadSettings``), and the prompts.

    Raises:
        ValueError: an unknown choice, or numbers and depths of prompts that do not fit the coupling.
    """

    n_ctx: int = 2  # b, vectors of a prompt
    ctx_init: str = "a photo of a"  # initial words of the first text prompts, tab-separated
    text_prompt_number: int = 4  # N
    vision_prompt_number: int = 4  # M
    text_prompt_depth: int = 9  # number of blocks with prompts, the first included; 0: no learned prompts
    vision_prompt_depth: int = 9
    coupling: str = "projected"  # visual prompts are linear maps of the text prompts; or independent
    image_set: str = "prompts"  # visual features of the prompt level; or patches, as in PLOT
    engine: str = "torch"  # or auto, which is the same (kept for existing YAML files)

    without_config_key = ("hierarchical", "max_elements")  # BETA 0 replaces hierarchical False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "triton":
            raise ValueError("engine is 'triton', which was removed (it never ran on a GPU); allowed: 'torch', 'auto'")
        check_choice("engine", self.engine, ("torch", "auto"))
        check_choice("coupling", self.coupling, ("projected", "independent"))
        check_choice("image_set", self.image_set, ("prompts", "patches"))
        if self.image_set == "patches" and self.beta > 0:
            raise ValueError(
                f"beta is {self.beta} with image_set patches, which has no token level: set beta to 0, or "
                "image_set to prompts"
            )
        if self.coupling == "independent":
            return
        if self.text_prompt_depth == 0:
            raise ValueError(
                "text_prompt_depth is 0 under coupling projected; allowed: 1 or more, or coupling independent"
            )
        for kind in ("number", "depth"):
            vision, text = getattr(self, f"vision_prompt_{kind}"), getattr(self, f"text_prompt_{kind}")
            if vision != text:
                raise ValueError(
                    f"vision_prompt_{kind} is {vision} and text_prompt_{kind} {text}; allowed: equal values, as "
                    "coupling projected maps text prompts to visual prompts, or coupling independent"
                )


class ALIGN(PromptedCLIP[ALIGNOptions]):
    """CLIP with logits (1 - d) / tau, where d is the transport distance between the visual prompts of an image and the
    text prompts of a class.

    ``reading="paper"`` follows the paper, ``"released"`` the authors' code (see ``prompting.ot.hierarchical_ot``).
    """

    name = "ALIGN"
    options_class = ALIGNOptions

    def build(self, classnames: Sequence[str], options: ALIGNOptions) -> None:
        texts = options.ctx_init.split("\t")[: options.text_prompt_number] if options.ctx_init else []
        length = options.n_ctx if options.text_prompt_depth else 0  # depth 0 learns no text: the words stay fixed
        initial = [word_vectors(self.clip, text, length) for text in texts] if length else []
        self.prompt_learner = self.learner(options, initial)
        prefixes = texts + [""] * (options.text_prompt_number - len(texts))
        self.tokens = tokenize_prompts(classnames, n_ctx=length, prefixes=prefixes, clip_model=self.clip)
        self.token_set = token_set_mask(self.tokens, options.reading)  # (N, K, T)
        self.head = HierarchicalOT(options, all_reduce_sum=self.all_reduce_sum)
        self.transports_patches = options.image_set == "patches"
        # Patches at the prompt level receive a gradient in either reading.
        self.detach_tokens = not (self.head.learns_tokens or self.transports_patches)

    def learner(self, options: ALIGNOptions, initial: Sequence[Tensor]) -> nn.Module:
        """Return the learner of the prompts; ``initial`` holds initial values (b, d_l) of the first text prompts."""
        self.shape.check_depth(text=options.text_prompt_depth, vision=options.vision_prompt_depth)
        text = options.text_prompt_number, options.n_ctx, self.shape.text_width
        if options.coupling == "projected":
            return ProjectedPrompts(*text, self.shape.vision_width, options.text_prompt_depth, initial)
        visual = options.vision_prompt_number, options.n_ctx, self.shape.vision_width
        return IndependentPrompts(
            TextPrompts(*text, options.text_prompt_depth, initial), VisualPrompts(*visual, options.vision_prompt_depth)
        )

    def class_features(self, prompts: Prompts) -> TextFeatures:
        """Return h (K, N, D) and, with a token level, s (K, N, L, D) and its mask (K, N, L)."""
        token_set = self.token_set if self.head.uses_tokens else None
        return self.text_encoder(
            self.tokens, prompts.text, prompts.deep_text, token_set=token_set, detach_tokens=self.detach_tokens
        )

    def head_input(self, images: Tensor) -> HierarchicalInput:
        """Return the features that the head scores; ``self.head.score`` takes them and can return the plans."""
        prompts = self.prompt_learner()
        image = self.image_encoder(
            images,
            prompts.visual,
            prompts.deep_visual,
            return_tokens=self.head.uses_tokens or self.transports_patches,
            detach_tokens=self.detach_tokens,
        )
        text = self.cached(lambda: self.class_features(prompts))
        visual = image.prompt  # (B, M, D)
        if self.transports_patches:
            visual = image.tokens[:, :, : self.shape.patches].flatten(1, 2)  # (B, M * O, D)
        return HierarchicalInput(visual, text.prompt, image.tokens, text.tokens, text.mask)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of ``images`` (B, 3, H, W): Eq. 7, or those of the reading ``released``."""
        return self.head.score(self.head_input(images), logit_scale=self.logit_scale).logits


@dataclass(frozen=True)
class MMPOptions(Options):
    """Settings of the authors' YAML files (config node ``MMP``).

    Raises:
        ValueError: ``usect``, which the released code cannot run.
    """

    n_ctx: int = 2
    ctx_init: str = "a photo of a"
    text_prompt_depth: int = 1
    vision_prompt_depth: int = 1  # ignored, as in the released code
    text_prompt_number: int = 4
    vision_prompt_number: int = 4
    hierarchical: bool = True
    usect: bool = False

    def __post_init__(self) -> None:
        if self.usect:
            raise ValueError("usect is True, which the released code cannot run; set it to False")
        self.as_align()

    def as_align(self) -> ALIGNOptions:
        """Return the equivalent settings of ALIGN, in the reading ``released``."""
        return ALIGNOptions(
            n_ctx=self.n_ctx,
            ctx_init="" if self.n_ctx > 4 else self.ctx_init,
            text_prompt_number=self.text_prompt_number,
            vision_prompt_number=self.vision_prompt_number,
            text_prompt_depth=self.text_prompt_depth,
            vision_prompt_depth=self.text_prompt_depth,
            reading="released",
            beta=1.0 if self.hierarchical else 0.0,
        )


class MMP(ALIGN):
    """ALIGN in the reading ``released``, with the settings of the authors' YAML files."""

    name = "MMP"
    options_class = MMPOptions  # type: ignore[assignment]

    def build(self, classnames: Sequence[str], options: MMPOptions) -> None:  # type: ignore[override]
        if options.ctx_init and options.n_ctx > 4:
            logger.warning("N_CTX is above 4: every prompt starts at random, as in the released code")
        super().build(classnames, options.as_align())
