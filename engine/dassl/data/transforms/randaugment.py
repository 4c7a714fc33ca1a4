"""RandAugment with Dassl's operations, strengths and random streams (Python's, and numpy's for the cut-out)."""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from .augment import _OPERATIONS, Operation, _affine, _signed

GREY = (125, 123, 114)  # of the cut-out


def _solarize_add(image: Image.Image, value: float) -> Image.Image:
    """Add ``value`` to every pixel, then invert those above 128."""
    brighter = np.clip(np.asarray(image) + value, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), 128)


def _cutout(image: Image.Image, value: float) -> Image.Image:
    """Fill a square of ``value`` pixels around a random centre."""
    width, height = image.size
    # np.random.uniform(w) draws from w down to 1, as its upper end is 1 if not given
    left, top = (int(max(0, np.random.uniform(edge) - value / 2)) for edge in (width, height))
    image = image.copy()
    corners = left, top, min(width, left + value), min(height, top + value)
    ImageDraw.Draw(image).rectangle(corners, GREY)
    return image


_OTHERS: dict[str, Operation] = {
    "solarize_add": _solarize_add,
    "cutout": _cutout,
    "translate_x_pixels": lambda image, value: _affine(image, 1, 0, _signed(value), 0, 1, 0),
    "translate_y_pixels": lambda image, value: _affine(image, 1, 0, 0, 0, 1, _signed(value)),
}

# name: range of strengths; the order fixes which operation a random number selects
_RANGES = {
    "autocontrast": (0, 1), "equalize": (0, 1), "invert": (0, 1), "rotate": (0, 30), "posterize": (4, 8),
    "solarize": (0, 256), "solarize_add": (0, 110), "color": (0.1, 1.9), "contrast": (0.1, 1.9),
    "brightness": (0.1, 1.9), "sharpness": (0.1, 1.9), "shear_x": (0, 0.3), "shear_y": (0, 0.3), "cutout": (0, 40),
    "translate_x_pixels": (0, 100), "translate_y_pixels": (0, 100),
}  # fmt: skip


class RandAugment:
    """Applies n of 16 operations, drawn with replacement, each with strength low + m / 30 (high - low), m in [0, 30].

    Raises:
        ValueError: m outside of its range.

    Source: Cubuk et al. 2020 (arXiv 1909.13719), with the operations of EfficientNet's code.
    """

    def __init__(self, n: int = 2, m: float = 10) -> None:
        if not 0 <= m <= 30:
            raise ValueError(f"the strength m of randaugment is {m}; allowed: 0 to 30")
        self.n, self.m = n, m
        operations = {**{name: row[0] for name, row in _OPERATIONS.items()}, **_OTHERS}
        self.augment_list = [(operations[name], low, high) for name, (low, high) in _RANGES.items()]

    def __call__(self, image: Image.Image) -> Image.Image:
        for operation, low, high in random.choices(self.augment_list, k=self.n):
            image = operation(image, self.m / 30 * (high - low) + low)
        return image
