"""Files of a run: written atomically, locked for one process, and listed with their hashes."""

import json
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from filelock import FileLock, Timeout

from prompting import files, run_folder
from prompting.files import write_file
from trainers.record.log import logger

Json = dict[str, Any]
"""The content of a JSON file."""

LOCK_NAME = ".run.lock"
_locks: dict[Path, FileLock] = {}


def writes() -> bool:
    """Return whether this process writes files: rank 0 of torchrun, or a single process."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return not (launched and int(os.environ.get("RANK", 0)))


def lock_folder(folder: str | os.PathLike[str]) -> None:
    """Claim an output folder until this process ends, in any way.

    Temporary files that a killed process left are removed. Where the file system has no locks, there is a warning.

    Raises:
        ValueError: another process has claimed the folder.
        NotADirectoryError: it is a file.
    """
    path = Path(folder or ".").resolve()
    if path in _locks or not writes():
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"{folder} is a file: give another --output-dir") from None
    lock = FileLock(path / LOCK_NAME, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another run is writing to {folder}: wait for its end, or give another --output-dir"
        ) from None
    except (OSError, NotImplementedError) as error:
        logger.warning(f"{folder} cannot be locked ({error}): make sure that no other run uses it")
        return
    _locks[path] = lock
    for part in (*path.glob(".*.tmp"), *path.glob("*/.*.tmp")):
        part.unlink(missing_ok=True)


def write_json(content: Json, path: Path) -> None:
    """Write a JSON file atomically."""
    write_file(path, json.dumps(content, indent=4).encode())


def read_json(path: Path) -> Json:
    """Return the content of a JSON file of a run.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return run_folder.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; move it away, or give another --output-dir") from None


def file_hash(path: str | os.PathLike[str] | None) -> str | None:
    """Return the SHA-256 of a file; None if it does not exist."""
    return files.file_hash(path) if path and Path(path).is_file() else None


def missing_files(folder: Path, results: Json) -> list[str]:
    """Return the files that ``results.json`` promises and that are not there, or not whole.

    The results of earlier versions promise none.
    """
    promised = results.get("files")
    promised = promised if isinstance(promised, dict) else {}
    return [name for name, digest in promised.items() if digest is None or file_hash(folder / name) != digest]
