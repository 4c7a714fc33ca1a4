"""Transforms that torchvision does not have. They draw from the random streams that Dassl's transforms use."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F


@dataclass
class Random2DTranslation:
    """Resizes an image to a size; with probability p resizes it to 9/8 of that size and takes a random crop."""

    height: int
    width: int
    p: float = 0.5
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __call__(self, img: Any) -> Any:
        if random.uniform(0, 1) > self.p:
            return F.resize(img, [self.height, self.width], self.interpolation)
        height, width = round(self.height * 1.125), round(self.width * 1.125)
        left = round(random.uniform(0, width - self.width))
        top = round(random.uniform(0, height - self.height))
        return F.crop(F.resize(img, [height, width], self.interpolation), top, left, self.height, self.width)


@dataclass
class InstanceNormalization:
    """Shifts and scales each channel of an image (C, H, W) to mean 0 and standard deviation 1."""

    eps: float = 1e-8

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        mean, std = img.mean((1, 2), keepdim=True), img.std((1, 2), keepdim=True)
        return (img - mean) / (std + self.eps)


@dataclass
class Cutout:
    """Sets squares around random pixels of an image (C, H, W) to zero."""

    n_holes: int = 1  # number of squares
    length: int = 16  # side of a square in pixels

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        height, width = img.shape[1:]
        half = self.length // 2
        mask = torch.ones(height, width)
        for _ in range(self.n_holes):
            y, x = np.random.randint(height), np.random.randint(width)
            mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return img * mask


@dataclass
class GaussianNoise:
    """Adds normal noise to an image with probability p."""

    mean: float = 0.0
    std: float = 0.15
    p: float = 0.5

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) > self.p:
            return img
        return img + torch.randn(img.size()) * self.std + self.mean


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


class RandAugment2:
    """Applies n of 15 operations, drawn with replacement, each with probability p and uniformly drawn strength."""

    column = 1  # of the range of strengths in _OPERATIONS

    def __init__(self, n: int = 2, p: float = 0.6) -> None:
        self.n, self.p = n, p
        self.augment_list = [(row[0], row[self.column]) for row in _OPERATIONS.values() if row[self.column] is not None]

    def __call__(self, img: Any) -> Any:
        for operation, (low, high) in random.choices(self.augment_list, k=self.n):
            if self.p < 1 and random.random() > self.p:
                continue
            img = operation(img, low + random.random() * (high - low))
        return img


class RandAugmentFixMatch(RandAugment2):
    """Applies n of 14 operations (Sohn et al. 2020, FixMatch, appendix)."""

    column = 2

    def __init__(self, n: int = 2) -> None:
        super().__init__(n, p=1.0)
