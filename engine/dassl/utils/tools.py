"""Helpers for files, images, random generators and lists."""

import contextlib
import glob
import json
import logging
import os
import random
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps

from .registry import check_availability, get_most_similar_str_to_a_from_b  # noqa: F401  plugins import them from here

logger = logging.getLogger(__name__)
LONGEST_SIDE = 1000  # times the shorter one, whose resize to 224 pixels would make a tiny file a picture of gigabytes
ABANDONED = 3600  # seconds after which a temporary file is one that a killed process has left


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


def remove_abandoned(folder: str | os.PathLike[str], pattern: str) -> None:
    """Remove files and folders that fit a pattern and have not changed for an hour: a killed process has left them."""
    for left in Path(folder).glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_atomically(path: str, write: Callable[[str], Any]) -> None:
    """Let ``write`` fill a temporary file in the folder of ``path``, then rename it: a failure keeps the old file.

    The content is on the disk before the old file goes, so that neither a crash nor a loss of power leaves half of it.

    Raises:
        OSError: the file cannot be written, as on a full disk; the error names ``path``.
    """
    remove_abandoned(os.path.dirname(path), f".{glob.escape(os.path.basename(path))}.*.tmp")
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


@contextlib.contextmanager
def by_product(name: str) -> Iterator[None]:
    """Turn an error in the block, which writes something besides the results, into a warning that names it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        logger.warning("%s: not written (%s)", name, reason)


def read_json(fpath: str) -> Any:
    """Return the content of a JSON file."""
    return json.loads(Path(fpath).read_text(encoding="utf-8"))


def write_json(obj: Any, fpath: str) -> None:
    """Write a JSON file with an indent of 4 and create its folder."""
    mkdir_if_missing(os.path.dirname(fpath))
    write_atomically(fpath, lambda temporary: Path(temporary).write_text(json.dumps(obj, indent=4), encoding="utf-8"))


@contextlib.contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """Open an image file whose pixels are decoded when they are first used; errors inside name the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, damaged, has more pixels than Pillow decodes (2 * MAX_IMAGE_PIXELS), or
            is a line: one side is more than 1000 times as long as the other.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No such image: {path}")
    try:
        with Image.open(path) as image:
            if image.format == "EPS":
                raise ValueError("PostScript is a program, not a picture")  # Pillow would run Ghostscript on it
            if max(image.size) > LONGEST_SIDE * min(image.size):
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels; allowed: sides up to 1 : {LONGEST_SIDE}"
                )
            yield image
    except Exception as error:  # decoders raise any type for a damaged file
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Unreadable image: {path} ({words:.300})") from None


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an open image; 1, upright, also if its EXIF data cannot be read."""
    try:
        number = image.getexif().get(0x0112)
    except Exception:  # damaged EXIF data tells nothing, and the picture may be whole
        return 1
    return number if number in range(2, 9) else 1


def read_image(path: str, turn: bool = False) -> Image.Image:
    """Return an image file as an RGB PIL image; ``turn`` turns it as its EXIF data say.

    Pixels wider than 8 bits are scaled to 8: those of 12 and 16 bits from the range of their format; 32-bit integers
    and floating point from the first of the ranges 0 to 1 (floating point only), 0 to 255 and 0 to 65535 that holds
    them, else from their smallest to their largest value.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, damaged, too large, or has a pixel that is not finite.
    """
    with open_image(path) as image:
        image.load()  # Pillow turns TIFF files here, and forgets their orientation
        result = (_eight_bits(image) if image.mode[0] in "IF" else image).convert("RGB")
        if not turn:
            return result
        result.getexif()[0x0112] = orientation(image)
        return ImageOps.exif_transpose(result)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of mode I, I;16 or F as one of mode L; see :func:`read_image` for the scale."""
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


def set_random_seed(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def get_rng_state() -> dict[str, Any]:
    """Return the states of the global generators of Python, numpy and torch (of all GPUs)."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [str(name), torch.tensor(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the states of :func:`get_rng_state`; those of GPUs only if the number of GPUs is the same."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def collect_env_info() -> str:
    """Return versions and hardware as text."""
    from torch.utils.collect_env import get_pretty_env_info

    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"


def tolist_if_not(x: Any) -> list[Any]:
    """Return ``x`` if it is a list, else ``[x]``."""
    return x if isinstance(x, list) else [x]
