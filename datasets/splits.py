"""Train, val and test as rows (path, label, class name): split files, checks, ratios, base and new classes.

A split file has CoOp's format, ``{"train": [[path, label, classname], ...], "val": ..., "test": ...}``, with paths
relative to the image folder. A file drawn by us also has ``"drawn": {"seed": ...}``. CoOp draws a missing split by
shuffling each class with Python's global ``random``; the same shuffles in the same order give the same split here.
"""

import functools
import os
import random
import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from dassl.utils.registry import check_choice, did_you_mean

from .files import brief, read_json

MAX_NAME = 500  # characters of a class name; CLIP reads 77 tokens


class Row(NamedTuple):
    """One image: path relative to the image folder (with "/"), label, class name."""

    path: str
    label: int
    classname: str


Rows = list[Row]


class Split(NamedTuple):
    """Images for training, validation and test."""

    train: Rows
    val: Rows
    test: Rows


def read_split(path: Path) -> Split:
    """Read a split file with train and test; ``check_split`` checks its rows, ``check_images`` the images."""
    content = read_json(path, "split file")
    for part in ("train", "test"):
        if not content.get(part):
            raise ValueError(f"split file {path}: {part!r} is {'empty' if part in content else 'missing'}")
    return Split(*(content.get(part, []) for part in Split._fields))


def drawn_with(path: Path | None) -> dict[str, int] | None:
    """Return ``{"seed": ...}`` of a split file that was drawn by us; None for any other file, or none."""
    found = read_json(path, "split file").get("drawn") if path and path.suffix == ".json" else None
    return found if isinstance(found, dict) else None


# ---- checks


def check_rows(rows: object, where: str) -> Rows:
    """Make each ``[path inside the image folder, label >= 0, classname]`` of a list a ``Row``, in place; return it.

    Raises:
        ValueError: the argument is not a list of such rows.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{where} is a {type(rows).__name__}; it should be a list of [path, label, classname]")
    for number, row in enumerate(rows):
        right = isinstance(row, (list, tuple)) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], str)
        if not right or isinstance(row[1], bool) or not isinstance(row[1], int) or row[1] < 0:
            raise ValueError(f"{where}, row {number}: found {brief(row)}; it should be [path, label >= 0, classname]")
        if os.path.isabs(row[0]) or ".." in row[0].replace("\\", "/").split("/") or row[0][:1] == "\\":
            raise ValueError(f"{where}, row {number}: the path {brief(row[0])} leaves the image folder")
        rows[number] = Row(*row)  # in place: a million new objects would set off the garbage collector many times
    return rows


def check_name(name: str, where: str) -> None:
    """Raise ValueError unless a class name can be part of a sentence: short text, visible, on one line."""
    if not name.strip(" _"):
        raise ValueError(f"{where}: the class name {name!r} is empty")
    if len(name) > MAX_NAME:
        raise ValueError(f"{where}: the class name {name[:40]!r}... has {len(name):,} characters; at most {MAX_NAME}")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise ValueError(f"{where}: the class name {name!r} has a line break, a control character or an unknown byte")


def check_split(split: Split, where: str, unique_names: bool = False) -> Split:
    """Return a split whose rows (of any sequence type) and classes are right; error messages name ``where``.

    The labels of train (of test, if train is empty) must be 0 to K - 1; val and test must use no other labels. With
    ``unique_names``, label and name must correspond one to one (names of ImageNet repeat).

    Raises:
        ValueError: a row is malformed, or the classes do not fit together.
    """
    split = Split(*(check_rows(rows, f"{where}, {part!r}") for part, rows in zip(Split._fields, split)))
    for name in dict.fromkeys(row.classname for part in split for row in part):
        check_name(name, where)
    known = {row.label: row.classname for row in reversed(split.train or split.test)}
    labels = {name: label for label, name in sorted(known.items(), reverse=True)}

    def refuse(found: str, name: str) -> None:
        near = f"; {name!r} is label {labels[name]}" if name in labels else did_you_mean(name, labels)
        raise ValueError(f"{where}: {found}{near}")

    # unique triples: ImageNet has a million rows
    triples = dict.fromkeys((part, row.label, row.classname) for part, of in zip(Split._fields, split) for row in of)
    for part, label, name in triples:
        if label not in known:
            refuse(f"class {name!r} (label {label}) is in {part}, but not in train", name)
    gap = next((label for label in range(len(known)) if label not in known), None)
    if gap is not None:
        most = max(known)
        found = f"there are {len(known)} classes and no label {gap}, but a label {most} ({known[most]!r})"
        raise ValueError(f"{where}: {found}; labels should be 0 to {len(known) - 1}")
    for part, label, name in triples if unique_names else ():
        if name != known[label]:
            found = f"label {label} is {known[label]!r} in train and {name!r} in {part}"
            refuse(f"{found}; each label should have one name", name)
        if labels[name] != label:
            found = f"{name!r} has the labels {labels[name]} and {label}"
            raise ValueError(f"{where}: {found}; each name should have one label")
    return split


def check_images(split: Split, images: Path, where: str) -> None:
    """Raise FileNotFoundError if an image of a split is not in the folder ``images``."""

    @functools.cache
    def names(folder: str) -> set[str]:  # listing a folder once is faster than asking for each of its files
        return set(os.listdir(os.path.join(images, folder))) if os.path.isdir(os.path.join(images, folder)) else set()

    for part, rows in zip(Split._fields, split):
        for number, row in enumerate(rows):
            folder, _, name = row.path.rpartition("/")
            if name not in names(folder) and not os.path.isfile(path := os.path.join(images, row.path)):
                raise FileNotFoundError(f"{where}, {part!r}, row {number}: no such image: {path}")


# ---- random splits


def split_by_ratios(
    rows: Sequence[Row], train: float = 0.5, val: float = 0.2, test: float = 0.3, rng: Any = random
) -> Split:
    """Shuffle each class of n images; round(n * train) go to train, the next round(n * val) to val, the rest to test.

    The shares, of which ``val`` alone may be 0, sum to 1. ``rng`` has ``shuffle``; the global ``random``, as in CoOp,
    by default.

    Raises:
        ValueError: the shares are out of range, or a class is too small to give each part an image.
    """
    if not (min(train, test) > 0 and val >= 0 and abs(train + val + test - 1) <= 1e-6):  # refuses NaN, too
        raise ValueError(
            f"ratios are {(train, val, test)}; they should be positive shares of train, val (may be 0) and test "
            "that add up to 1"
        )
    return Split(*cut_classes(rows, (train, val, test), rng))


def cut_classes(rows: Sequence[Row], shares: Sequence[float], rng: Any = random) -> list[Rows]:
    """Shuffle each class of n images; each part gets the next round(n * share) of them, the last part the rest.

    Raises:
        ValueError: a class is too small to give each part with a positive share an image.
    """
    parts: list[Rows] = [[] for _ in shares]
    groups: dict[int, Rows] = {}
    for row in rows:
        groups.setdefault(row.label, []).append(row)
    for group in groups.values():
        rng.shuffle(group)
        ends = [*accumulate(round(len(group) * share) for share in shares[:-1]), len(group)]
        pieces = [group[start:end] for start, end in zip([0, *ends], ends)]
        if not all(piece or not share for piece, share in zip(pieces, shares)):
            ratios, sizes = ("/".join(map(str, numbers)) for numbers in (shares, map(len, pieces)))
            raise ValueError(
                f"class {group[0].classname!r} has {len(group)} images, too few for ratios {ratios} ({sizes})"
            )
        for part, piece in zip(parts, pieces):
            part += piece
    return parts


# ---- base and new classes


def check_subsample(subsample: str) -> None:
    """Raise ValueError unless ``subsample`` is all, base or new."""
    check_choice("DATASET.SUBSAMPLE_CLASSES", subsample, ("all", "base", "new"))


def subsample_classes(split: Split, subsample: str) -> Split:
    """Keep the base classes (the first ceil(K / 2) labels of train), the new classes (the other labels), or all.

    The chosen classes are relabelled from 0 in the order of their labels.

    Raises:
        ValueError: ``subsample`` is another word, or train or test would be empty.
    """
    check_subsample(subsample)
    if subsample == "all":
        return split
    labels = sorted({row.label for row in split.train})
    half = -(-len(labels) // 2)
    chosen = {label: i for i, label in enumerate(labels[:half] if subsample == "base" else labels[half:])}
    kept = Split(*([row._replace(label=chosen[row.label]) for row in part if row.label in chosen] for part in split))
    for name in ("train", "test"):
        if not getattr(kept, name):
            found = f"{len(labels)} classes in train, {len(chosen)} of them {subsample}"
            raise ValueError(f"DATASET.SUBSAMPLE_CLASSES {subsample!r} leaves {name} empty ({found})")
    return kept
