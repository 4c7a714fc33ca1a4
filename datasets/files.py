"""Text, JSON and cache files, the logger, and spelling suggestions for error messages."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger("dassl.datasets")  # a child of the run's logger, so that log.txt gets these lines
CACHE_VARIABLE = "ALIGN_CACHE"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ". Did you mean 'X'?" for the entry of ``known`` most like ``name``, or "" if none is similar."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def read_text(path: Path, kind: str) -> str:
    """Return the content of a UTF-8 file, with or without byte order mark.

    Args:
        path: the file.
        kind: name of the file type for error messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{kind} not found: {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{kind} {path} is not UTF-8 text ({error})") from None


def read_json(path: Path, kind: str, allowed: type | tuple[type, ...] = dict) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        kind: name of the file type for error messages.
        allowed: type or types that its content may have.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not JSON, or its content has another type.
    """
    text = read_text(path, kind)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{kind} {path} is not JSON ({error})") from None
    if not isinstance(content, allowed):
        names = {dict: "an object", list: "a list"}
        words = " or ".join(names[one] for one in (allowed if isinstance(allowed, tuple) else (allowed,)))
        raise ValueError(f"{kind} {path} holds a {type(content).__name__}; it should be {words}")
    return content


def write_json(content: Any, path: Path, overwrite: bool = True) -> bool:
    """Write a JSON file atomically and create its folder: other processes see the whole file or none.

    Args:
        content: value to write.
        path: the file.
        overwrite: whether an existing file is replaced.

    Returns:
        Whether the file was written; False if it exists and is not replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content), encoding="utf-8")
        if not overwrite:
            try:
                os.link(part, path)  # succeeds in one of several processes
                return True
            except FileExistsError:
                return False
            except OSError:  # the file system has no hard links
                pass
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return True


def cache_root(dataset_dir: Path) -> Path:
    """Return the cache folder of a data folder, under ``$ALIGN_CACHE`` or else ``~/.cache/align``.

    Its name ends with a hash of the absolute path, because folders of one name may hold different data.
    """
    base, folder = os.environ.get(CACHE_VARIABLE), dataset_dir.resolve()
    name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "align") / name


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def split_folder(dataset_dir: Path) -> Path:
    """Return the folder for a split drawn by us: the data folder as in CoOp, or the cache if that is read-only."""
    return dataset_dir if _writable(dataset_dir) else cache_root(dataset_dir)


def draw_folder(dataset_dir: Path) -> Path:
    """Return the folder for few-shot draws: ``split_fewshot`` in the data folder as in CoOp, or in the cache.

    The cache is used if ``ALIGN_CACHE`` is set or the data folder is read-only.
    """
    usual = dataset_dir / "split_fewshot"
    if not os.environ.get(CACHE_VARIABLE) and _writable(usual if usual.exists() else dataset_dir):
        return usual
    return cache_root(dataset_dir) / "split_fewshot"
