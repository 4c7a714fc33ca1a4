"""Sorted listings of image folders."""

import os
from collections.abc import Container
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
DRAWS = "split_fewshot"  # folder of few-shot draws, not a class


def is_image(name: str) -> bool:
    """Return whether a file name has an image suffix and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def subfolders(folder: Path, ignored: Container[str] = ()) -> list[str]:
    """Return the sorted names of the folders in ``folder``, without hidden ones, ``split_fewshot`` and ``ignored``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(name for name in names if name != DRAWS and name not in ignored)


def images_in(folder: Path, deep: bool = False) -> list[str]:
    """Return the sorted paths, relative to a folder, of the images directly in it or (``deep``) at any depth."""
    if not deep:
        return sorted(filter(is_image, os.listdir(folder)))
    found = (path for path in folder.rglob("*") if is_image(path.name) and path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def list_classes(folder: Path, ignored: Container[str] = (), deep: bool = False) -> dict[str, list[str]]:
    """Return class folder -> paths of its images (``deep``: at any depth) relative to it, both sorted.

    Raises:
        FileNotFoundError: ``folder`` does not exist.
        ValueError: there is no class folder, or one of them has no image.
    """
    names = subfolders(folder, ignored)
    if not names:
        flat = len(images_in(folder))
        found = f"{flat} images that are not in class folders" if flat else "no class folders"
        raise ValueError(f"{folder} holds {found}; put the images of each class into a folder of its name")
    classes = {name: images_in(folder / name, deep) for name in names}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise ValueError(f"class folder {folder / empty[0]} holds no image{more}; fill it or remove it")
    return classes
