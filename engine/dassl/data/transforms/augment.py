"""Two random augmentation policies that torchvision does not have."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, float], Image.Image]


def _affine(img: Image.Image, *matrix: float) -> Image.Image:
    return img.transform(img.size, Image.Transform.AFFINE, matrix)


def _signed(value: float) -> float:
    return -value if random.random() > 0.5 else value


# name: operation(image, strength), range of strengths in randaugment2, range in FixMatch (None: not used)
_OPERATIONS: dict[str, tuple[Operation, tuple[float, float], tuple[float, float] | None]] = {
    "autocontrast": (lambda img, v: ImageOps.autocontrast(img), (0, 1), (0, 1)),
    "brightness": (lambda img, v: ImageEnhance.Brightness(img).enhance(v), (0.1, 1.9), (0.05, 0.95)),
    "color": (lambda img, v: ImageEnhance.Color(img).enhance(v), (0.1, 1.9), (0.05, 0.95)),
    "contrast": (lambda img, v: ImageEnhance.Contrast(img).enhance(v), (0.1, 1.9), (0.05, 0.95)),
    "equalize": (lambda img, v: ImageOps.equalize(img), (0, 1), (0, 1)),
    "identity": (lambda img, v: img, (0, 1), (0, 1)),
    "invert": (lambda img, v: ImageOps.invert(img), (0, 1), None),
    "posterize": (lambda img, v: ImageOps.posterize(img, int(v)), (4, 8), (4, 8)),
    "rotate": (lambda img, v: img.rotate(_signed(v)), (-30, 30), (-30, 30)),
    "sharpness": (lambda img, v: ImageEnhance.Sharpness(img).enhance(v), (0.1, 1.9), (0.05, 0.95)),
    "shear_x": (lambda img, v: _affine(img, 1, _signed(v), 0, 0, 1, 0), (-0.3, 0.3), (-0.3, 0.3)),
    "shear_y": (lambda img, v: _affine(img, 1, 0, 0, _signed(v), 1, 0), (-0.3, 0.3), (-0.3, 0.3)),
    "solarize": (lambda img, v: ImageOps.solarize(img, v), (0, 256), (0, 256)),
    "translate_x": (lambda img, v: _affine(img, 1, 0, _signed(v) * img.size[0], 0, 1, 0), (-0.3, 0.3), (-0.3, 0.3)),
    "translate_y": (lambda img, v: _affine(img, 1, 0, 0, 0, 1, _signed(v) * img.size[1]), (-0.3, 0.3), (-0.3, 0.3)),
}


class _RandomOperations:
    """Applies n operations, drawn with replacement, each with probability p and uniformly drawn strength."""

    column = 1  # of the range of strengths in _OPERATIONS

    def __init__(self, n: int = 2, p: float = 1.0) -> None:
        self.n, self.p = n, p
        self.augment_list = [(row[0], row[self.column]) for row in _OPERATIONS.values() if row[self.column] is not None]

    def __call__(self, img: Any) -> Any:
        for operation, (low, high) in random.choices(self.augment_list, k=self.n):
            if self.p < 1 and random.random() > self.p:
                continue
            img = operation(img, low + random.random() * (high - low))
        return img


class RandAugment2(_RandomOperations):
    """n of 15 operations, each applied with probability p."""

    def __init__(self, n: int = 2, p: float = 0.6) -> None:
        super().__init__(n, p)


class RandAugmentFixMatch(_RandomOperations):
    """n of 14 operations (Sohn et al. 2020, FixMatch, appendix)."""

    column = 2

    def __init__(self, n: int = 2) -> None:
        super().__init__(n)
