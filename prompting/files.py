"""Files and folders that are written whole or not at all."""

import csv
import errno
import glob
import hashlib
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout  # comes with torch

ABANDONED = 3600  # seconds after which a temporary file is one that a killed process has left


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically and create its folder; a link or a device (/dev/stdout) is written in place.

    Raises:
        OSError: the file cannot be written, such as on a full disk; the error names it, and an existing file is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with naming(path):
            path.write_bytes(content)
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # threads and containers share numbers
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    """Return rows as a CSV file in UTF-8; file names that are not UTF-8 keep their bytes."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def check_place(path: Path) -> None:
    """Refuse a path that cannot be written, before long work for it.

    Raises:
        OSError: the path is a folder, is below a file, or may not be written; the error names it.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    place = path if path.exists() and (path.is_symlink() or not path.is_file()) else folder  # as write_file
    code = errno.EISDIR if path.is_dir() else 0 if folder.is_dir() else errno.ENOTDIR
    if not code and not os.access(place, os.W_OK):
        code = errno.EACCES
    if code:
        raise OSError(code, os.strerror(code), str(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in an error of the block that names none, as of a library that finds the disk full."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


def write_figure(figure: Any, path: Path, **options: Any) -> None:
    """Write a figure of matplotlib atomically; the suffix is the format, PNG without one.

    Raises:
        OSError: as for ``write_file``.
        ValueError: a format that matplotlib does not know.
    """
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:] or "png", **options)
    write_file(path, content.getvalue())


def move_files(source: Path, folder: Path) -> None:
    """Move files, in place of older ones; ``README.md`` is not there until all others are."""
    (folder / "README.md").unlink(missing_ok=True)
    for file in sorted(source.iterdir(), key=lambda file: file.name == "README.md"):
        file.replace(folder / file.name)


@contextmanager
def work_folder(place: Path, output: Path) -> Iterator[Path]:
    """Give a new folder in ``place``, which one process at a time may have; ``place`` is removed at the end.

    What a killed process left in ``place`` is removed. Where the file system has no locks, nothing is refused.

    Raises:
        FileExistsError: another process has ``place``; the message names ``output``.
    """
    lock, new, other = FileLock(place / "lock", timeout=0), place / "new", False
    try:
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            other = True
            text = f"another process writes to {output}: wait for its end, or give another folder"
            raise FileExistsError(text) from None
        except (OSError, NotImplementedError):
            pass
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        yield new
    finally:
        if not other:
            try:
                shutil.rmtree(place, ignore_errors=True)
            except KeyboardInterrupt:  # in the middle: what is left goes too
                shutil.rmtree(place, ignore_errors=True)
                raise
            finally:
                lock.release()
