"""Listing folders of images, sorted, and keeping the listing of a large one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container
from pathlib import Path

from .files import log, read_json, write_json

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
DRAWS = "split_fewshot"  # a folder of ours or CoOp's, no class


def is_picture(name: str) -> bool:
    """Return whether a file's name is that of an image, and not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def sub_folders(folder: Path, ignored: Container[str] = ()) -> list[str]:
    """Return the sorted names of the folders in a folder, but hidden ones, ``split_fewshot`` and ``ignored`` ones.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(name for name in names if name != DRAWS and name not in ignored)


def pictures(folder: Path) -> list[str]:
    """Return the sorted names of the images in a folder."""
    return sorted(filter(is_picture, os.listdir(folder)))


def scan(folder: Path, ignored: Container[str] = ()) -> dict[str, list[str]]:
    """Return class folder -> its images, both sorted.

    Args:
        folder: a folder of class folders.
        ignored: class folders to leave out.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no class folder ("flat"), or one of them has no image.
    """
    names = sub_folders(folder, ignored)
    if not names:
        flat = len(pictures(folder))
        found = f"{flat} images that are not in class folders" if flat else "no class folders"
        raise ValueError(f"{folder} holds {found}; each class should have its own folder there, with its images")
    classes = {name: pictures(folder / name) for name in names}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise ValueError(f"class folder {folder / empty[0]} holds no image{more}; fill it or remove it")
    return classes


def _fingerprint(folder: Path) -> str:
    # a folder's time changes when a file comes or goes
    seen = [[name, (folder / name).stat().st_mtime_ns] for name in sub_folders(folder)]
    return hashlib.sha256(json.dumps([str(folder), seen]).encode()).hexdigest()[:16]


def kept_scan(folder: Path, cache: Path) -> dict[str, list[str]]:
    """Do as ``scan``, but read the listing from ``cache`` if no class folder has changed since, else keep it there.

    Only a complete listing is kept: not one that ``scan`` refuses, and not one of a folder that changes meanwhile.

    Args:
        folder: a folder of class folders.
        cache: a JSON file.

    Raises:
        FileNotFoundError, ValueError: as ``scan``.
    """
    before = _fingerprint(folder)
    if cache.is_file():
        try:
            kept = read_json(cache, "listing")
        except ValueError:
            kept = {}
        if kept.get("fingerprint") == before:
            return kept["classes"]
    log.info("Listing %s", folder)
    classes = scan(folder)
    if _fingerprint(folder) == before:
        try:
            write_json({"fingerprint": before, "classes": classes}, cache)
        except OSError as error:
            log.warning("The listing of %s is not kept: %s", folder, error)
    return classes
