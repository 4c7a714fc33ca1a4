"""Sorted listings of image folders; the listing of a large data set is cached."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container
from pathlib import Path

from .files import log, read_json, write_json

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
DRAWS = "split_fewshot"  # folder of few-shot draws, not a class


def is_image(name: str) -> bool:
    """Return whether a file name has an image suffix and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def subfolders(folder: Path, ignored: Container[str] = ()) -> list[str]:
    """Return the sorted names of the folders in ``folder``, without hidden ones, ``split_fewshot`` and ``ignored``.

    Raises:
        FileNotFoundError: ``folder`` does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(name for name in names if name != DRAWS and name not in ignored)


def images_in(folder: Path) -> list[str]:
    """Return the sorted names of the images directly in a folder."""
    return sorted(filter(is_image, os.listdir(folder)))


def list_classes(folder: Path, ignored: Container[str] = ()) -> dict[str, list[str]]:
    """Return class folder -> names of its images, both sorted.

    Args:
        folder: a folder of class folders.
        ignored: class folders to leave out.

    Raises:
        FileNotFoundError: ``folder`` does not exist.
        ValueError: there is no class folder, or one of them has no image.
    """
    names = subfolders(folder, ignored)
    if not names:
        flat = len(images_in(folder))
        found = f"{flat} images that are not in class folders" if flat else "no class folders"
        raise ValueError(f"{folder} holds {found}; put the images of each class into a folder of its name")
    classes = {name: images_in(folder / name) for name in names}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise ValueError(f"class folder {folder / empty[0]} holds no image{more}; fill it or remove it")
    return classes


def _fingerprint(folder: Path) -> str:
    # the modification time of a folder changes when a file is added or removed
    seen = [[name, (folder / name).stat().st_mtime_ns] for name in subfolders(folder)]
    return hashlib.sha256(json.dumps([str(folder), seen]).encode()).hexdigest()[:16]


def list_classes_cached(folder: Path, cache: Path) -> dict[str, list[str]]:
    """Return ``list_classes(folder)``, read from the JSON file ``cache`` if no class folder has changed since.

    Only a complete listing of a folder that did not change meanwhile is written to ``cache``.

    Raises:
        FileNotFoundError, ValueError: as ``list_classes``.
    """
    before = _fingerprint(folder)
    if cache.is_file():
        try:
            cached = read_json(cache, "listing")
        except ValueError:
            cached = {}
        if cached.get("fingerprint") == before:
            return cached["classes"]
    log.info("Listing %s", folder)
    classes = list_classes(folder)
    if _fingerprint(folder) == before:
        try:
            write_json({"fingerprint": before, "classes": classes}, cache)
        except OSError as error:
            log.warning("The listing of %s is not cached: %s", folder, error)
    return classes
