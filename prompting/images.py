"""Reads image files into CLIP's input tensors: the evaluation transform."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms  # comes with open_clip

from prompting.ot.checks import check_choice

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
MOST_PIXELS = 10_000  # in a side of a tensor
LONGEST_SIDE = 1000  # times the shorter one, whose resize to 224 pixels would make a tiny file a picture of gigabytes


@dataclass(frozen=True)
class Preprocess:
    """The transform of an evaluation: resize the shorter edge, crop the centre, scale to [0, 1], normalise.

    Args:
        size: (H, W) of the result in pixels.
        interpolation: bicubic, bilinear or nearest, for the resize.
        mean: means of the red, green and blue channel, subtracted.
        std: standard deviations of the channels, > 0, by which they are divided.
        turn: rotate image files by their EXIF orientation; see :func:`read_image`.

    Raises:
        ValueError: an unknown interpolation, or a value of another type, not finite or out of range.
    """

    size: tuple[int, int]
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    turn: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Preprocess":
        """Return the transform of a JSON object, whose lists become tuples."""
        fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in content.items()}
        return cls(**fields)

    def __post_init__(self) -> None:
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        for name, count in (("size", 2), ("mean", 3), ("std", 3)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != count or not all(map(_finite, value)):
                raise ValueError(f"{name} of the images is {value!r:.100}; allowed: {count} numbers")
        if not all(type(side) is int and 1 <= side <= MOST_PIXELS for side in self.size):
            raise ValueError(
                f"size of the images is {self.size!r:.100}; allowed: whole numbers from 1 to {MOST_PIXELS}"
            )
        if min(self.std) <= 0 or not isinstance(self.turn, bool):
            found = f"std and turn of the images are {self.std} and {self.turn!r:.100}"
            raise ValueError(f"{found}; allowed: numbers above 0, and true or false")

    def crop(self, image: Image.Image) -> Image.Image:
        """Return an image resized and cropped to (H, W) pixels, as a model sees it; a second call changes nothing."""
        image = transforms.resize(image.convert("RGB"), [max(self.size)], InterpolationMode(self.interpolation))
        return transforms.center_crop(image, list(self.size))

    def read(self, path: str | os.PathLike[str]) -> Image.Image:
        """Return an image file, resized and cropped as a model sees it."""
        return self.crop(read_image(path, self.turn))

    def stack(self, paths: Iterable[str | os.PathLike[str]]) -> Tensor:
        """Return the normalised tensors of image files, (B, 3, H, W)."""
        return torch.stack([self(read_image(path, self.turn)) for path in paths])

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the normalised float32 tensor (3, H, W) of an image."""
        pixels = transforms.pil_to_tensor(self.crop(image)).float().div(255)
        return transforms.normalize(pixels, list(self.mean), list(self.std))


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_image(path: str | os.PathLike[str], turn: bool = False) -> Image.Image:
    """Return an image file as RGB: the same pixels as in a training (``read_image`` of this project's engine).

    Pixels wider than 8 bits are scaled to 8: those of 12 and 16 bits from the range of their format; 32-bit integers
    and floating point from the first of the ranges 0 to 1 (floating point only), 0 to 255 and 0 to 65535 that holds
    them, else from their smallest to their largest value.

    Args:
        path: the file.
        turn: rotate the picture by its EXIF orientation.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, is no image, has a pixel that is not finite, or one side is more than 1000
            times as long as the other.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no image file at {os.fspath(path)}")
    try:
        with Image.open(path) as image:
            if image.format == "EPS":
                raise ValueError("PostScript is a program, not a picture")  # Pillow would run Ghostscript on it
            if max(image.size) > LONGEST_SIDE * min(image.size):
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels; allowed: sides up to 1 : {LONGEST_SIDE}"
                )
            image.load()
            picture = (_eight_bits(image) if image.mode[0] in "IF" else image).convert("RGB")
            return _upright(picture, image) if turn else picture
    except Exception as error:  # decoders raise any type for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{os.fspath(path)} is not a readable image: {reason:.300}") from error


def _upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    """Return a picture rotated by the EXIF orientation of its source; unchanged if the EXIF data are damaged."""
    try:
        picture.getexif()[0x0112] = source.getexif().get(0x0112, 1)
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a picture of mode I, I;16 or F to mode L; see :func:`read_image` for the scale."""
    values = np.asarray(image).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("a pixel is not a finite number")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # BitsPerSample of a TIFF file: 12 or 16
        bottom, top = 0.0, 2.0**bits - 1
    else:
        tops = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
        bottom, top = next(((0.0, top) for top in tops if low >= 0 and high <= top), (low, high))
    scale = 255 / ((top - bottom) or 1.0)
    return Image.fromarray(np.rint(values * scale - bottom * scale).clip(0, 255).astype(np.uint8))


def find_images(paths: Iterable[str | os.PathLike[str]], left_out: list[Path] | None = None) -> list[Path]:
    """Return the given files, and the image files at any depth in the given folders, sorted within each.

    Links to folders are followed, except to a folder above, each folder once. Hidden files and folders, such as
    ``.ipynb_checkpoints``, are left out unless they are given. ``left_out`` receives the other files of the folders,
    such as ``.heic`` photos.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no image.
        OSError: a folder cannot be listed.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(_walk(path))
            images = [file for file in files if file.suffix.lower() in SUFFIXES]
            if left_out is not None:
                left_out += [file for file in files if file.suffix.lower() not in SUFFIXES]
            if not images:
                raise FileNotFoundError(f"the folder {path} holds no image ({', '.join(SUFFIXES)})")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    return found


def _walk(top: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise error

    seen = set(map(str, Path(os.path.realpath(top)).parents))
    for place, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        shown = (Path(place, name) for name in files if not name.startswith("."))
        yield from (file for file in shown if file.is_file())
