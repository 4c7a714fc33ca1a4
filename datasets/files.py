"""What the readers share: JSON files, where they are kept, the log and a word of help."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger("dassl.datasets")  # a child of the run's logger: its lines reach log.txt

CACHE_VARIABLE = "ALIGN_CACHE"


def read_text(path: Path, what: str) -> str:
    """Return the content of a text file; raise FileNotFoundError if it is missing and ValueError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")  # as spreadsheets write it, too
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} not found: {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} is not UTF-8 text ({error})") from None


def read_json(path: Path, what: str, form: type | tuple[type, ...] = dict) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        what: what it is, for the error's words.
        form: what it should hold.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, or holds something else.
    """
    text = read_text(path, what)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} {path} is not JSON ({error})") from None
    if not isinstance(content, form):
        names = {dict: "an object", list: "a list"}
        allowed = " or ".join(names.get(one, one.__name__) for one in (form if isinstance(form, tuple) else (form,)))
        raise ValueError(f"{what} {path} holds a {type(content).__name__}; it should be {allowed}")
    return content


def write_json(content: Any, path: Path, over: bool = True) -> bool:
    """Write a JSON file, and its folder, in one step: who reads it beside us reads all of it or nothing.

    Args:
        content: what to write.
        path: the file.
        over: whether to write over a file that is there.

    Returns:
        Whether it was written; False if there was one, which stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content), encoding="utf-8")
        if not over:
            try:
                os.link(part, path)  # of several processes, one can
                return True
            except FileExistsError:
                return False
            except OSError:  # a file system without links
                pass
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return True


def cache_root(dataset_dir: str | os.PathLike[str]) -> Path:
    """Return the cache folder of a data folder: under ``$ALIGN_CACHE``, or under ``~/.cache/align``.

    Its name is the data folder's with a hash of where that is, because folders of one name may hold other data.
    """
    base, folder = os.environ.get(CACHE_VARIABLE), Path(dataset_dir).resolve()
    name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "align") / name


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def split_place(dataset_dir: str | os.PathLike[str], name: str) -> Path:
    """Return where a split drawn here is written: the data folder, CoOp's place, or else the cache folder."""
    folder = Path(dataset_dir)
    return (folder if _writable(folder) else cache_root(folder)) / name


def cache_folder(dataset_dir: str | os.PathLike[str]) -> Path:
    """Return where the few-shot draws of a data set are kept.

    ``split_fewshot`` in ``cache_root`` if ``ALIGN_CACHE`` is set; else in the data folder, CoOp's place, if it can be
    written to; else in ``cache_root`` again.
    """
    folder = Path(dataset_dir)
    usual = folder / "split_fewshot"
    if not os.environ.get(CACHE_VARIABLE) and _writable(usual if usual.exists() else folder):
        return usual
    return cache_root(folder) / "split_fewshot"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return words that name the entry of ``known`` nearest to ``name``, or "" if none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""
