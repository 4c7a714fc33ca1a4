"""Helpers for files, images, seeds and lists."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .registry import check_availability, get_most_similar_str_to_a_from_b  # noqa: F401  plugins import them from here

if TYPE_CHECKING:
    from PIL.Image import Image


def mkdir_if_missing(dirname: str) -> None:
    """Create a folder and its parents if they do not exist; an empty name means the current folder."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Return whether ``fpath`` is a file; warn if it is not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return found


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Return the names in a folder that do not start with a dot, in the file system's order unless ``sort``."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def write_atomically(path: str, write: Callable[[str], Any]) -> None:
    """Let ``write`` fill a temporary file in the folder of ``path``, then rename it: a failure keeps the old file."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def read_json(fpath: str) -> Any:
    """Return the content of a JSON file."""
    with open(fpath, encoding="utf-8") as file:
        return json.load(file)


def write_json(obj: Any, fpath: str) -> None:
    """Write a JSON file with an indent of 4 and create its folder."""
    mkdir_if_missing(os.path.dirname(fpath))

    def write(path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(obj, file, indent=4, separators=(",", ": "))

    write_atomically(fpath, write)


def read_image(path: str) -> Image:
    """Return an image file as an RGB PIL image.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, or damaged.
    """
    from PIL import Image

    if not os.path.isfile(path):
        raise FileNotFoundError(f"No such image: {path}")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"Unreadable image: {path} ({error})") from None


def set_random_seed(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def collect_env_info() -> str:
    """Return versions and hardware as text."""
    import PIL
    from torch.utils.collect_env import get_pretty_env_info

    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"


def tolist_if_not(x: Any) -> list[Any]:
    """Return ``x`` if it is a list, else ``[x]``."""
    return x if isinstance(x, list) else [x]
