"""Helpers for files, images, random generators and lists."""

import contextlib
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

logger = logging.getLogger(__name__)


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
    """Let ``write`` fill a temporary file in the folder of ``path``, then rename it: a failure keeps the old file.

    The content is on the disk before the old file goes, so that neither a crash nor a loss of power leaves half of it.

    Raises:
        OSError: the file cannot be written, as on a full disk; the error names ``path``.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.tmp")
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


def read_image(path: str) -> Image.Image:
    """Return an image file as an RGB PIL image.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an image, or damaged.
    """
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
