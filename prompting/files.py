"""Atomic writing of files."""

import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically and create its folder; a link or a device (/dev/stdout) is written in place.

    Raises:
        OSError: the file cannot be written, such as on a full disk; the error names it, and an existing file is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
