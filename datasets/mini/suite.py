"""The mini data sets: their classes, images and looks, and how one image is made."""

import hashlib
import inspect
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from . import medium as drawing
from .medium import Medium, compose
from .pack import SIDE, SPLITS, by_class, read_picture

SETS_FILE = Path(__file__).with_name("sets.yaml")
IMAGES = {"train": 24, "val": 4, "test": 12}  # a class; each of its pictures as often as the others, as far as possible
DIGIT_IMAGES = {"train": 60, "val": 20, "test": 40}
DIGIT_SIZE = 30  # of SIDE
ROLES = ("source", "shift", "target")
SEED = 2026


@dataclass(frozen=True)
class PictureSet:
    """A data set of the suite."""

    name: str  # registry name
    folder: str  # name of its folder, and of its sheets
    role: str  # "source", "shift" (of the source, test only) or "target"
    medium: Medium | None  # its look; None for scikit-learn's digits, which are photographs of handwriting
    template: str = "a photo of a {}."  # the sentence around a class name

    @property
    def test_only(self) -> bool:
        return self.role == "shift"

    @property
    def split_file(self) -> str:
        return f"split_{self.folder}.json"

    @property
    def images(self) -> dict[str, int]:
        """Images a class of each split."""
        if self.medium is None:
            return DIGIT_IMAGES
        return {split: count * (not self.test_only or split == "test") for split, count in IMAGES.items()}

    def classes(self) -> list[str]:
        """Return the class names in the order of labels."""
        return [f"digit {i}" for i in range(10)] if self.medium is None else list(by_class(self.folder))

    def fingerprint(self) -> str:
        """Changes with the description, its pictures and the code that draws: files on disk are then written again."""
        parts = [repr(self), str(self.images), str(SEED), inspect.getsource(drawing), repr(by_class(self.folder))]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def read_suite(path: Path = SETS_FILE) -> dict[str, PictureSet]:
    """Return the sets of ``sets.yaml`` by folder; raise ValueError if a role is unknown."""
    suite = {}
    for folder, about in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if about["role"] not in ROLES:
            raise ValueError(f"{path.name}: role of {folder} is {about['role']!r}; allowed: {', '.join(ROLES)}")
        look = about.get("medium")
        medium = Medium(**{key: _tuples(value) for key, value in look.items()}) if look else None
        template = about.get("template", PictureSet.template)
        suite[folder] = PictureSet(about["name"], folder, about["role"], medium, template)
    return suite


def _tuples(value):
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@lru_cache(maxsize=1)
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


def digit(number: int, index: int) -> np.ndarray:
    """Return scikit-learn's picture ``index`` of a digit (8 x 8), enlarged, dark on light: (64, 64, 3) uint8."""
    images, target = _handwriting()
    ink = Image.fromarray((images[np.flatnonzero(target == number)[index]] * (255 / 16)).astype(np.uint8))
    page = Image.new("L", (SIDE, SIDE), 0)
    page.paste(ink.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BICUBIC), ((SIDE - DIGIT_SIZE) // 2,) * 2)
    light = 245 - np.asarray(page, dtype=np.float32) * (235 / 255)
    return np.repeat(light.astype(np.uint8)[..., None], 3, 2)


def image(dataset: PictureSet, split: str, label: int, number: int) -> np.ndarray:
    """Return image ``number`` of a class in a split, (64, 64, 3) uint8: a pure function of its arguments."""
    if dataset.medium is None:
        return digit(label, sum(DIGIT_IMAGES[s] for s in SPLITS[: SPLITS.index(split)]) + number)
    name = dataset.classes()[label]
    pictures = by_class(dataset.folder)[name][split]
    key = hashlib.sha256(f"{SEED}/{dataset.folder}/{split}/{name}/{number}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(key[:8], "big"))
    return compose(read_picture(pictures[number % len(pictures)]), dataset.medium, rng)
