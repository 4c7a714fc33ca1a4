"""CoPrompt: MaPLe with adapters, consistent with CLIP on another view and on other sentences (arXiv 2306.01195).

f = 0.1 A(z) + 0.9 z for image features z, w = 0.2 A'(h) + 0.8 h for class features h, A(x) = relu(up(relu(down(x))));
loss = cross entropy + W [(1 - mean over classes cos(w, w0)) + (1 - mean over images cos(f, f0))], with the frozen
CLIP's features f0 of a second augmentation of the images and w0 of one sentence per class, drawn in each step.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from prompting import teacher
from prompting.clip.templates import fill
from prompting.clip.tokens import clean_name
from prompting.heads import cosine_logits
from prompting.learners import Prompts
from prompting.methods.kgcoop import TEMPLATES
from prompting.methods.maple import MaPLe, MaPLeOptions
from prompting.ot.checks import check_choice
from prompting.run_folder import read_json

IMAGE_SHARE, TEXT_SHARE = 0.1, 0.2  # weights of the adapters' outputs, as published

logger = logging.getLogger("prompting")

FILES = {  # names of the published files of sentences, by data set
    "Caltech101": "caltech",
    "DescribableTextures": "dtd",
    "EuroSAT": "eurosat",
    "FGVCAircraft": "fgvc",
    "Food101": "food101",
    "ImageNet": "imagenet",
    "OxfordFlowers": "oxford_flowers",
    "OxfordPets": "oxford_pets",
    "StanfordCars": "stanford_cars",
    "SUN397": "sun397",
    "UCF101": "ucf101",
}


@dataclass(frozen=True)
class CoPromptOptions(MaPLeOptions):
    """Settings of CoPrompt."""

    for_prediction = {"sentences": None}

    w: float = 8.0  # weight of the distances to the teacher
    distill: str = "cosine"  # kind of the distances; or mse, the mean squared difference
    # Folder of the files <data set>_prompt.json, {class name: [sentence, ..]}; None for a model that is not trained.
    sentences: str | None = "gpt_file"

    def __post_init__(self) -> None:
        check_choice("distill", self.distill, ("cosine", "mse"))


class Adapter(nn.Module):
    """A(x) = relu(up(relu(down(x)))), without biases, with a hidden layer of ``width`` / 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 4
        self.fc = nn.Sequential(
            nn.Linear(width, inner, bias=False), nn.ReLU(), nn.Linear(inner, width, bias=False), nn.ReLU()
        )

    def forward(self, x: Tensor, share: float) -> Tensor:
        """Return ``share`` A(x) + (1 - ``share``) x."""
        return share * self.fc(x) + (1 - share) * x


class CoPrompt(MaPLe):
    """CLIP with MaPLe's prompts and two adapters, consistent with the frozen CLIP."""

    name = "CoPrompt"
    options_class = CoPromptOptions
    teacher_text: Tensor | None

    def build(self, classnames: Sequence[str], options: CoPromptOptions) -> None:  # type: ignore[override]
        super().build(classnames, options)
        self.adapter_image, self.adapter_text = Adapter(self.shape.embed_dim), Adapter(self.shape.embed_dim)
        self.weight = options.w
        self.distance = teacher.cosine_distance if options.distill == "cosine" else teacher.squared_distance
        self.register_buffer("teacher_text", None, persistent=False)  # w0 of each sentence (S, K, D)
        if options.sentences is None:
            return
        rows = read_sentences(Path(options.sentences), self.dataset, classnames)
        if not rows:
            template = self.sentence(TEMPLATES)
            self.note = f"no file of sentences in {options.sentences}: the teacher reads {template!r}"
            logger.warning("CoPrompt on %s: %s", self.dataset, self.note)
            rows = [[fill(template, name) for name in classnames]]
        self.teacher_text = teacher.text_features(self.text_encoder, rows, self.clip)

    def class_features(self, prompts: Prompts) -> Tensor:
        """Return the adapted class features (K, D), of unit length."""
        text = self.text_encoder(self.tokens, prompts.text, prompts.deep_text).prompt[:, 0]
        return F.normalize(self.adapter_text(text, TEXT_SHARE), dim=-1)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adapted features (B, D) of ``images`` and (K, D) of the classes."""
        image, text = super().features(images)
        return self.adapter_image(image, IMAGE_SHARE), text

    def loss_terms(
        self, images: Tensor, labels: Tensor, second: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the cross entropy, the distances of texts and images to the teacher's, and the logits.

        Args:
            images, labels: as for ``PromptedCLIP.loss_terms``.
            second: another augmentation of the images, for the teacher; None takes ``images``.
        """
        if self.teacher_text is None:
            raise ValueError("this CoPrompt has no loss: it was built for prediction, without the teacher's sentences")
        image, text = self.features(images)
        frozen = teacher.image_features(self.image_encoder, images if second is None else second)
        targets = self.teacher_text
        logits = cosine_logits(image, text, self.logit_scale)
        return {
            "ce": F.cross_entropy(logits, labels),
            "text": self.weight * self.distance(text, targets[random.randrange(len(targets))]),
            "image": self.weight * self.distance(image, frozen),
        }, logits


def read_sentences(folder: Path, dataset: str, classnames: Sequence[str]) -> list[list[str]]:
    """Return S lists of K sentences from ``<folder>/<data set>_prompt.json``; an empty list if there is no such file.

    Raises:
        ValueError: the file is damaged, lacks a class, holds anything but sentences, or a different number of them for
            some classes.
    """
    path = folder / f"{FILES.get(dataset, dataset)}_prompt.json"
    if not path.is_file():
        return []
    content, names = read_json(path), [clean_name(name) for name in classnames]
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path} has no sentences for {len(missing)} of {len(names)} classes, first {missing[0]!r}")
    for name in names:
        found = content[name]
        if not isinstance(found, list) or not all(isinstance(one, str) and one.strip() for one in found):
            raise ValueError(f"{path} has {found!r:.100} for {name!r}; allowed: a list of sentences")
    numbers = {len(content[name]) for name in names}
    if len(numbers) > 1 or 0 in numbers:
        raise ValueError(f"{path} has {sorted(numbers)} sentences for its classes; each needs the same number")
    return [list(row) for row in zip(*(content[name] for name in names))]
