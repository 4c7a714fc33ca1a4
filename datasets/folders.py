"""Sorted listings of image folders, with the files and folders that they leave out."""

import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TypeAlias

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
DRAWS = "split_fewshot"  # folder of few-shot draws, not a class
# folders that systems and tools make in others' folders, with copies and thumbnails of the images in them
SYSTEM_FOLDERS = (
    "__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found",
)  # fmt: skip

LeftOut: TypeAlias = dict[str, list[str]]
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
    """Return the sorted names of the folders in ``folder``, without hidden ones, ``split_fewshot`` and ``ignored``."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    names = [name for name in _names(folder) if not is_hidden(name) and os.path.isdir(folder / name)]
    return [name for name in names if name != DRAWS and name not in ignored]


def images_in(
    folder: Path, deep: bool = False, left_out: LeftOut | None = None, listed: set[Place] | None = None
) -> list[str]:
    """Return the sorted paths, relative to a folder, of the images directly in it or (``deep``) at any depth.

    Links to files and folders are followed, except to a folder above; each folder is listed once. ``left_out`` is
    filled with all else, ``listed`` with the folders.
    """
    if not deep:
        return list(filter(is_image, _names(folder)))
    found: LeftOut = {} if left_out is None else left_out
    above = {_place(str(parent)) for parent in Path(os.path.realpath(folder)).parents}
    seen = set(above)
    images = sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in _walk(str(folder), found, seen))
    if listed is not None:
        listed |= seen - above
    return images


def _place(folder: str) -> Place:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _walk(folder: str, left_out: LeftOut, seen: set[Place]) -> Iterator[str]:
    place = _place(folder)
    if place in seen:
        left_out.setdefault("folders above, or listed already, through a link", []).append(folder)
        return
    seen.add(place)
    for name in _names(Path(folder)):
        path = os.path.join(folder, name)
        if is_hidden(name):
            left_out.setdefault("hidden", []).append(path)
        elif is_image(name) and os.path.isfile(path):
            yield path
        elif os.path.isdir(path):
            yield from _walk(path, left_out, seen)
        else:
            reason = (
                "no file, or a link to nothing" if is_image(name) else f"named *{os.path.splitext(name)[1].lower()}"
            )
            left_out.setdefault(reason, []).append(path)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except PermissionError as error:
        raise PermissionError(
            f"the folder {folder} cannot be listed ({error.strerror}); allow it or remove it"
        ) from None


def list_classes(
    folder: Path, ignored: Container[str] = (), deep: bool = False, left_out: LeftOut | None = None
) -> dict[str, list[str]]:
    """Return class folder -> paths of its images (``deep``: at any depth) relative to it, both sorted.

    ``ignored`` are names that are no classes. If ``deep``, ``left_out`` is filled with everything else.

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
                left_out.setdefault("hidden", []).append(str(folder / name))
            elif not os.path.isdir(folder / name):
                left_out.setdefault("beside the class folders", []).append(str(folder / name))
    classes: dict[str, list[str]] = {}
    owners: dict[Place, str] = {}
    for name in names:
        listed: set[Place] = set()
        classes[name] = images_in(folder / name, deep, left_out, listed)
        if other := next((owners[place] for place in listed if place in owners), None):
            raise ValueError(f"through links, the class folders {folder / other} and {folder / name} share a folder")
        owners |= dict.fromkeys(listed, name)
    empty = [name for name, files in classes.items() if not files]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise ValueError(f"class folder {folder / empty[0]} holds no image{more}; fill it or remove it")
    return classes
