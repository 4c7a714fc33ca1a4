"""PLOT++: PLOT for ViTs, with M visual prompts matched with N text prompts (of the authors of arXiv 2210.01253).

Trained in two stages: first the visual prompts alone (``MODEL_UPD: vision``), then both sides (``joint``), from the
checkpoint that ``PRETRAIN_DIR`` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from prompting.learners import Prompts, VisualPrompts
from prompting.ot.checks import check_choice
from trainers.base import PromptTrainer, checkpoint_path
from trainers.coop import learned_contexts
from trainers.plot import TransportCLIP

# Words that the first four text prompts start from; the first one's words are as many as each prompt has vectors.
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
    # Published with "this is a" as the third: three words for four vectors, so that the fourth vector would take the
    # place of the class name's first token. Here, and for its variants, which have no entry: the words of ANY_SET.
    "ImageNet": ANY_SET,
    # Published with the same words twice; such prompts get the same gradients and stay equal.
    "OxfordFlowers": (
        "a photo of a flower", "one picture of a flower", "this is flower picture of", "one picture of a flower",
    ),
    "OxfordPets": ("a photo of a pet", "one picture of a pet", "this is pet picture of", "one picture of a pet"),
    "UCF101": (
        "a photo of a person doing", "this is a photo people doing", "this is picture of people doing",
        "one picture of a person doing",
    ),
}  # fmt: skip


class BothSides(nn.Module):
    """The text and the visual learner; ``text_learns`` False holds the text side as it is (the first stage)."""

    def __init__(self, text: nn.Module, visual: nn.Module, text_learns: bool) -> None:
        super().__init__()
        self.text, self.visual, self.text_learns = text, visual, text_learns

    def forward(self) -> Prompts:
        """Return both sides of ``Prompts``."""
        text = self.text().text
        # Held by detaching, not by freezing, so that both stages save and load the same tensors.
        return Prompts(text=text if self.text_learns else text.detach(), visual=self.visual().visual)


class CustomCLIP(TransportCLIP):
    """PLOT++: the image's set is its CLS features under M visual prompts at the input.

    Raises:
        ValueError: a ResNet, an unknown ``MODEL_UPD``, or more text prompts than there are words to start from.
    """

    node = "PLOTPP"

    def build(self, own: Any, classnames: Sequence[str]) -> None:
        check_choice("TRAINER.PLOTPP.MODEL_UPD", own.MODEL_UPD, ("", "vision", "joint"))
        self.shape.check_depth(text=1, vision=1)
        super().build(own, classnames)
        starts = STARTS.get(self.dataset, ANY_SET) if own.CTX_INIT else ()
        if starts and own.N > len(starts):
            raise ValueError(f"TRAINER.PLOTPP.N is {own.N}; CTX_INIT True has words for {len(starts)} text prompts")
        text, self.tokens = learned_contexts(own, own.N, classnames, self.clip, starts)
        visual = VisualPrompts(own.M, own.N_CTX_V, self.shape.vision_width)
        self.prompt_learner = BothSides(text, visual, own.MODEL_UPD != "vision")
        self.names = {
            "prompt_learner.text.ctx": "prompt_learner.ctx",
            "prompt_learner.visual.ctx": "prompt_learner.ctx_vision",
        }

    def image_set(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the M features of the image (B, M, D), and their mean (B, D)."""
        features = self.image_encoder(images, self.prompt_learner().visual).prompt
        return features, features.mean(1)


@TRAINER_REGISTRY.register()
class PLOTPP(PromptTrainer):
    """Learns M visual and N text prompts and transports the ones to the others."""

    model_name = "prompt_learner"  # as published, though the whole model is under it
    model_class = CustomCLIP
    defaults = {
        "N_CTX": 4,
        "CSC": False,
        "CTX_INIT": True,  # start from the data set's words, whose number takes the place of N_CTX
        "PREC": "fp16",
        "CLASS_TOKEN_POSITION": "end",
        "N": 4,  # text prompts
        "M": 4,  # visual prompts
        "TRADE_OFF": False,  # add the logits of the pooled features (as published for the first stage)
        "PRETRAIN_DIR": "",  # the first stage's checkpoint, or a folder with one, for the second stage
        "MODEL_UPD": "",  # vision: the first stage, visual prompts only; joint or empty: both sides
        "N_CTX_V": 2,  # vectors of a visual prompt
    }

    def start_file(self) -> str:
        """Return the checkpoint of the first stage, or what other methods start from."""
        given = Path(self.settings.PRETRAIN_DIR)
        if not self.settings.PRETRAIN_DIR or given.is_file():
            return self.settings.PRETRAIN_DIR or super().start_file()
        inner = given / self.model_name
        return str(checkpoint_path(inner if inner.is_dir() else given, None))
