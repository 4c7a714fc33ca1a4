"""PLOT++: PLOT for ViTs, with M visual prompts matched with N text prompts (by the authors of arXiv 2210.01253).

Training has two stages: the visual prompts alone (``model_upd="vision"``), then both sides (``"joint"``), which start
from the prompts of the first stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from prompting.learners import IndependentPrompts, Prompts, VisualPrompts
from prompting.methods.contexts import ContextOptions, learned_contexts
from prompting.methods.plot import TransportCLIP
from prompting.ot.checks import check_choice

# Initial words of the first four text prompts. The word count of the first one is the length of every prompt.
ANY_SET = ("a photo of a", "this is a photo", "this is picture of", "one picture of a")
STARTS = {
    "DescribableTextures": (
        "a photo of a texture", "this is a photo texture", "this is a picture texture", "one picture of a texture",
    ),
    "EuroSAT": (
        "a centered satellite photo of", "a centered satellite picture of", "this is centered satellite photo of",
        "one centered satellite photo of a",
    ),
    "FGVCAircraft": (
        "a photo of an aircraft", "a picture of an aircraft", "this is aircraft picture of",
        "one picture of an aircraft",
    ),
    "Food101": ("a photo of a food", "this is a food photo", "this is food picture of", "one picture of a food"),
    # Published with "this is a" as the third, three words for four vectors, so that the fourth vector would replace the
    # first token of the class name. ImageNet and its variants take ANY_SET instead.
    "ImageNet": ANY_SET,
    # Published with the same words twice; these two prompts get equal gradients and stay equal.
    "OxfordFlowers": (
        "a photo of a flower", "one picture of a flower", "this is flower picture of", "one picture of a flower",
    ),
    "OxfordPets": ("a photo of a pet", "one picture of a pet", "this is pet picture of", "one picture of a pet"),
    "UCF101": (
        "a photo of a person doing", "this is a photo people doing", "this is picture of people doing",
        "one picture of a person doing",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PLOTPPOptions(ContextOptions):
    """Settings of PLOT++.

    Raises:
        ValueError: an unknown ``model_upd``.
    """

    n_ctx: int = 4  # b of a text prompt
    ctx_init: bool = True  # initial words of the data set, whose number replaces n_ctx
    n: int = 4  # N text prompts
    m: int = 4  # M visual prompts
    trade_off: bool = False  # add the logits of the pooled features (as published for the first stage)
    pretrain_dir: str = ""  # first-stage checkpoint that the second stage starts from, or its folder
    model_upd: str = ""  # vision: the first stage, visual prompts only; joint or "": both sides
    n_ctx_v: int = 2  # b of a visual prompt

    def __post_init__(self) -> None:
        check_choice("model_upd", self.model_upd, ("", "vision", "joint"))


class FirstStagePrompts(IndependentPrompts):
    """Text prompts that are constant, and visual prompts."""

    def forward(self) -> Prompts:
        """Return text and visual prompts."""
        # Detached rather than frozen, so that both stages save and load the same tensors.
        return Prompts(text=self.text().text.detach(), visual=self.visual().visual)


class PLOTPP(TransportCLIP[PLOTPPOptions]):
    """PLOT++: the image's set is its CLS features under M visual prompts at the input.

    Raises:
        ValueError: a ResNet, or more text prompts than initial words.
    """

    name = "PLOTPP"
    options_class = PLOTPPOptions

    def build(self, classnames: Sequence[str], options: PLOTPPOptions) -> None:
        self.shape.check_depth(text=1, vision=1)
        self.head, self.adds_pooled = self.make_head(), options.trade_off
        starts = STARTS.get(self.dataset, ANY_SET) if options.ctx_init else ()
        if starts and options.n > len(starts):
            raise ValueError(f"n is {options.n}; ctx_init True has words for {len(starts)} text prompts")
        text, self.tokens = learned_contexts(options, options.n, classnames, self.clip, starts)
        visual = VisualPrompts(options.m, options.n_ctx_v, self.shape.vision_width)
        learner = FirstStagePrompts if options.model_upd == "vision" else IndependentPrompts
        self.prompt_learner = learner(text, visual)
        self.released_names = {
            "prompt_learner.text.ctx": "prompt_learner.ctx",
            "prompt_learner.visual.ctx": "prompt_learner.ctx_vision",
        }

    def image_set(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the M features of the image (B, M, D), and their mean (B, D)."""
        features = self.image_encoder(images, self.prompt_learner().visual).prompt
        return features, features.mean(1)
