"""Sorted listings of image folders, with the files and folders that they leave out."""

import os
from collections import defaultdict
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TypeAlias

from .files import DRAWS

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# folders that systems and tools make in others' folders, with copies and thumbnails of the images in them
SYSTEM_FOLDERS = (
    "__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found",
)  # fmt: skip

LeftOut: TypeAlias = defaultdict[str, list[str]]
"""Reason -> paths of the files and folders that a listing did not take."""
Place: TypeAlias = tuple[int, int]
"""Device and number of a folder, the same through every link."""


def is_image(name: str) -> bool:
    """Return whether a file name has an image suffix and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that systems make."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def subfolders(folder: Path, ignored: Container[str] = ()) -> list[str]:
    """Return the sorted names of the folders in ``folder``, without hidden ones, few-shot draws and ``ignored``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    names = [name for name in _names(folder) if not is_hidden(name) and os.path.isdir(folder / name)]
    return [name for name in names if name != DRAWS and name not in ignored]


def images_in(folder: Path) -> list[str]:
    """Return the sorted names of the images directly in a folder."""
    return list(filter(is_image, _names(folder)))


def _images_below(folder: Path, left_out: LeftOut, owners: dict[Place, Path]) -> list[str]:
    """Return the sorted paths, relative to a class folder, of the images at any depth below it.

    Links to files and folders are followed, except to a folder above; each folder is listed once. ``left_out`` is
    filled with all else, ``owners`` with the class folder of each folder that was listed.
    """
    above = {_place(parent) for parent in Path(os.path.realpath(folder)).parents}

    def walk(inner: Path | str) -> Iterator[str]:
        place = _place(inner)
        if place in above or owners.get(place) == folder:
            left_out["folders above, or listed already, through a link"].append(str(inner))
            return
        if place in owners:
            raise ValueError(f"through links, the class folders {owners[place]} and {folder} share a folder")
        owners[place] = folder
        for name in _names(inner):
            path = os.path.join(inner, name)
            if is_hidden(name):
                left_out["hidden"].append(path)
            elif is_image(name) and os.path.isfile(path):
                yield path
            elif os.path.isdir(path):
                yield from walk(path)
            elif is_image(name):
                left_out["no file, or a link to nothing"].append(path)
            else:
                left_out[f"named *{os.path.splitext(name)[1].lower()}"].append(path)

    return sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in walk(folder))


def _place(folder: Path | str) -> Place:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _names(folder: Path | str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except PermissionError as error:
        raise PermissionError(
            f"the folder {folder} cannot be listed ({error.strerror}); allow it or remove it"
        ) from None


def list_classes(folder: Path, ignored: Container[str] = (), left_out: LeftOut | None = None) -> dict[str, list[str]]:
    """Return class folder -> paths of its images relative to it, both sorted.

    ``ignored`` are names that are no classes. With ``left_out``, images are taken at any depth, links to folders are
    followed, and everything else is listed in it.

    Raises:
        FileNotFoundError: ``folder`` does not exist.
        PermissionError: a folder cannot be listed.
        ValueError: there is no class folder, one of them has no image, or links put a folder into two of them.
    """
    names = subfolders(folder, ignored)
    if not names:
        flat = len(images_in(folder))
        found = f"{flat} images that are not in class folders" if flat else "no class folders"
        raise ValueError(f"{folder} holds {found}; put the images of each class into a folder of its name")
    if left_out is not None:
        for name in _names(folder):
            if is_hidden(name):
                left_out["hidden"].append(str(folder / name))
            elif not os.path.isdir(folder / name):
                left_out["beside the class folders"].append(str(folder / name))
    classes: dict[str, list[str]] = {}
    owners: dict[Place, Path] = {}
    for name in names:
        place = folder / name
        classes[name] = images_in(place) if left_out is None else _images_below(place, left_out, owners)
    empty = [name for name, files in classes.items() if not files]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise ValueError(f"class folder {folder / empty[0]} holds no image{more}; fill it or remove it")
    return classes
