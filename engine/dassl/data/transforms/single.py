"""Transforms that torchvision does not have. They draw from the random streams that Dassl's transforms use."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F


class Random2DTranslation:
    """Resizes an image to a size; with probability p resizes it to 9/8 of that size and takes a random crop.

    Args:
        height: H of the result.
        width: W of the result.
        p: probability of the translation.
        interpolation: mode of the resizing.
    """

    def __init__(
        self, height: int, width: int, p: float = 0.5, interpolation: InterpolationMode = InterpolationMode.BILINEAR
    ) -> None:
        self.height, self.width, self.p, self.interpolation = height, width, p, interpolation

    def __call__(self, img: Any) -> Any:
        if random.uniform(0, 1) > self.p:
            return F.resize(img, [self.height, self.width], self.interpolation)
        height, width = round(self.height * 1.125), round(self.width * 1.125)
        left = round(random.uniform(0, width - self.width))
        top = round(random.uniform(0, height - self.height))
        return F.crop(F.resize(img, [height, width], self.interpolation), top, left, self.height, self.width)


class InstanceNormalization:
    """Shifts and scales each channel of an image (C, H, W) to mean 0 and standard deviation 1."""

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        mean, std = img.mean((1, 2), keepdim=True), img.std((1, 2), keepdim=True)
        return (img - mean) / (std + self.eps)


class Cutout:
    """Sets squares around random pixels of an image (C, H, W) to zero.

    Args:
        n_holes: number of squares.
        length: side of a square in pixels.
    """

    def __init__(self, n_holes: int = 1, length: int = 16) -> None:
        self.n_holes, self.length = n_holes, length

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        height, width = img.shape[1:]
        half = self.length // 2
        mask = torch.ones(height, width)
        for _ in range(self.n_holes):
            y, x = np.random.randint(height), np.random.randint(width)
            mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return img * mask


class GaussianNoise:
    """Adds normal noise to an image with probability p.

    Args:
        mean: mean of the noise.
        std: standard deviation of the noise.
        p: probability.
    """

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5) -> None:
        self.mean, self.std, self.p = mean, std, p

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) > self.p:
            return img
        return img + torch.randn(img.size()) * self.std + self.mean
