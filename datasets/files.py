"""Text, JSON and cache files, and the logger."""

import hashlib
import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

from dassl.utils import write_atomically

log = logging.getLogger("dassl.datasets")  # a child of the run's logger, so that log.txt gets these lines
CACHE_VARIABLE = "ALIGN_CACHE"
DRAWS = "split_fewshot"  # folder of few-shot draws, as in CoOp


def brief(value: object, length: int = 200) -> str:
    """Return ``repr(value)``, cut to ``length`` characters."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"


def read_text(path: Path, kind: str) -> str:
    """Return the content of a UTF-8 file, with or without byte order mark; errors call the file a ``kind``."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{kind} not found: {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{kind} {path} is not UTF-8 text ({error})") from None


def read_json(path: Path, kind: str, allowed: type | tuple[type, ...] = dict) -> Any:
    """Return the content of a JSON file, which has one of the ``allowed`` types.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not JSON, or its content has another type.
    """
    text = read_text(path, kind)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise ValueError(f"the key {brief(repeated[0])} is in it twice")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError(f"{kind} {path} is not JSON that can be read (it is nested too deeply)") from None
    except ValueError as error:  # also of numbers with too many digits
        raise ValueError(f"{kind} {path} is not JSON ({error})") from None
    if not isinstance(content, allowed):
        names = {dict: "an object", list: "a list"}
        words = " or ".join(names[one] for one in (allowed if isinstance(allowed, tuple) else (allowed,)))
        raise ValueError(f"{kind} {path} holds a {type(content).__name__}; it should be {words}")
    return content


def write_json(content: Any, path: Path, overwrite: bool = True) -> bool:
    """Write a JSON file atomically and create its folder; return False if it exists and ``overwrite`` is False.

    An OSError names the file and ``ALIGN_CACHE``.
    """

    def write(part: str) -> None:
        Path(part).write_text(json.dumps(content), encoding="utf-8")
        if not overwrite:
            try:
                os.link(part, path)  # succeeds in one of several processes
            except OSError:
                if path.exists():
                    raise FileExistsError from None
                # the file system has no hard links

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(str(path), write)
    except FileExistsError:
        if path.is_file():
            return False
        raise OSError(f"{path} cannot be written: {path.parent} is no folder") from None
    except OSError as error:
        advice = f"set {CACHE_VARIABLE} to a folder that can be written"
        raise OSError(f"{path} cannot be written ({error.strerror}); {advice}") from None
    return True


def cache_root(dataset_dir: Path) -> Path | None:
    """Return the cache folder of a data folder, under ``$ALIGN_CACHE`` or else ``~/.cache/align``.

    Its name ends with a hash of the absolute path, because folders of one name may hold different data. None without
    ``ALIGN_CACHE`` and without a home folder.
    """
    folder, base = dataset_dir.resolve(), os.path.expanduser(os.environ.get(CACHE_VARIABLE) or "~/.cache/align")
    name = f"{folder.name}-{hashlib.sha256(str(folder).encode(errors='surrogateescape')).hexdigest()[:8]}"
    return None if base.startswith("~") else Path(base) / name


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def split_folder(dataset_dir: Path) -> Path:
    """Return the folder for a split drawn by us: the data folder as in CoOp, or the cache if that is read-only."""
    return dataset_dir if _writable(dataset_dir) else cache_root(dataset_dir) or dataset_dir


def draw_folder(dataset_dir: Path) -> Path:
    """Return the folder for few-shot draws: ``split_fewshot`` in the data folder as in CoOp, or in the cache.

    The cache is used if ``ALIGN_CACHE`` is set or the data folder is read-only.
    """
    usual = dataset_dir / DRAWS
    if not os.environ.get(CACHE_VARIABLE) and _writable(usual if usual.exists() else dataset_dir):
        return usual
    return (cache_root(dataset_dir) or dataset_dir) / DRAWS
