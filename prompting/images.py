"""Image files to the tensors that CLIP takes: the transform of an evaluation, without torchvision."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from prompting.ot.checks import check_choice

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Preprocess:
    """The transform of an evaluation: resize the shorter edge, crop the centre, scale to [0, 1], normalise.

    Args:
        size: (H, W) of the result in pixels.
        interpolation: of the resizing, bicubic, bilinear or nearest.
        mean: subtracted from the red, green and blue channel.
        std: divides the channels.

    Raises:
        ValueError: an unknown interpolation.
    """

    size: tuple[int, int]
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Preprocess":
        """Return the transform of a JSON object, whose lists become tuples."""
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in content.items()}
        return cls(**fields)

    def __post_init__(self) -> None:
        check_choice("interpolation", self.interpolation, tuple(INTERPOLATIONS))

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the part of an image that a model sees, of (H, W) pixels; a crop of it is the same."""
        image, edge, (height, width) = image.convert("RGB"), max(self.size), self.size
        scale = edge / min(image.size)
        sides = [edge if side == min(image.size) else int(edge * side / min(image.size)) for side in image.size]
        if scale != 1:
            image = image.resize((sides[0], sides[1]), INTERPOLATIONS[self.interpolation])
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the tensor (3, H, W) of an image."""
        pixels = torch.from_numpy(np.array(self.crop(image))).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Return an image file as RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no image.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no image file at {os.fspath(path)}")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{os.fspath(path)} is not a readable image: {reason}") from error


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the given files, and the image files in the given folders and below, sorted within a folder.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not images:
                raise FileNotFoundError(f"the folder {path} holds no image ({', '.join(SUFFIXES)})")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    return found


def unnormalised(images: Sequence[Tensor] | Tensor) -> list[Image.Image]:
    """Return uint8 tensors (3, H, W) as images."""
    return [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
