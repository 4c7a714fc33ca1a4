"""Cutting a list of images into train, val and test, with CoOp's use of random numbers.

Where no split file is there, CoOp shuffles each class with Python's global ``random`` and cuts; the same shuffles in
the same order give the same split for the same seed and listing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from .files import did_you_mean

Row = tuple  # (path relative to the folder of images, label, class name), as in a split file
Rows = list  # of Row


class Listing(NamedTuple):
    """A split as rows, not yet compared with what is on disk."""

    train: Rows
    val: Rows
    test: Rows


def by_label(rows: Sequence[Row]) -> dict[int, Rows]:
    """Return label -> rows, labels in the order of first appearance."""
    groups: dict[int, Rows] = {}
    for row in rows:
        groups.setdefault(row[1], []).append(row)
    return groups


def cut_by_ratios(
    rows: Sequence[Row], train: float = 0.5, val: float = 0.2, test: float = 0.3, rng: Any = random
) -> Listing:
    """Shuffle each class and cut it into train, val and test.

    Of the n images of a class, the first round(n * train) are for training, the next round(n * val) for validation and
    the rest for the test.

    Args:
        rows: all images.
        train: share of training images, 0 < train < 1.
        val: share of validation images, 0 <= val < 1.
        test: share of test images; the three add up to 1.
        rng: source of ``shuffle``; the default is the global one, as CoOp's.

    Raises:
        ValueError: if the shares are not such, or a class is too small to give each part an image.
    """
    if min(train, test) <= 0 or val < 0 or abs(train + val + test - 1) > 1e-6:
        raise ValueError(
            f"ratios are {(train, val, test)}; they should be shares of train, val and test that add up to 1, "
            "val may be 0"
        )
    parts = Listing([], [], [])
    for group in by_label(rows).values():
        rng.shuffle(group)
        first, second = round(len(group) * train), round(len(group) * val)
        pieces = group[:first], group[first : first + second], group[first + second :]
        if not pieces[0] or not pieces[2] or (val > 0 and not pieces[1]):
            sizes = ", ".join(f"{len(piece)} {name}" for name, piece in zip(Listing._fields, pieces))
            raise ValueError(
                f"class {group[0][2]!r} has {len(group)} images, too few for ratios {train}/{val}/{test} ({sizes})"
            )
        for part, piece in zip(parts, pieces):
            part += piece
    return parts


def hold_out_val(rows: Sequence[Row], val: float = 0.2, rng: Any = random) -> tuple[Rows, Rows]:
    """Return train and val: of each class, shuffled, the first round(n * val) images are for validation.

    Args:
        rows: images to train and validate on.
        val: share of validation images, 0 < val < 1.
        rng: source of ``shuffle``; the default is the global one, as CoOp's.

    Raises:
        ValueError: if a class is too small to give both parts an image.
    """
    kept: tuple[Rows, Rows] = ([], [])
    for group in by_label(rows).values():
        rng.shuffle(group)
        count = round(len(group) * val)
        if not 0 < count < len(group):
            raise ValueError(f"class {group[0][2]!r} has {len(group)} images, too few to hold out {val:.0%} for val")
        kept[1].extend(group[:count])
        kept[0].extend(group[count:])
    return kept


def check_classes(listing: Listing, where: str, names: bool = False) -> None:
    """Raise ``ValueError`` unless the classes of a listing fit together; one line with the nearest right thing.

    The labels of train (of the test, where there is no train) are 0 to K - 1, and those of val and test among them.

    Args:
        listing: rows of all parts.
        where: where the listing is from, for the error's words.
        names: whether also each label has one name and each name one label (CLIP's names of ImageNet repeat).
    """
    known = {label: name for _, label, name in reversed(listing.train or listing.test)}
    labels = {name: label for label, name in sorted(known.items(), reverse=True)}

    def refuse(found: str, name: str, rule: str = "") -> None:
        near = f"; {name!r} is label {labels[name]}" if name in labels else did_you_mean(name, labels)
        raise ValueError(f"{where}: {found}{rule}{near}")

    # each once: ImageNet has a million rows
    rows = dict.fromkeys((part, row[1], row[2]) for part, of in zip(Listing._fields, listing) for row in of)
    for part, label, name in rows:
        if label not in known:
            refuse(f"class {name!r} (label {label}) is in {part}, but not in train", name)
    gap = next((label for label in range(len(known)) if label not in known), None)
    if gap is not None:
        most = max(known)
        found = f"there are {len(known)} classes and no label {gap}, but a label {most} ({known[most]!r})"
        raise ValueError(f"{where}: {found}; labels should be 0 to {len(known) - 1}")
    for part, label, name in rows if names else ():
        if name != known[label]:
            found = f"label {label} is {known[label]!r} in train and {name!r} in {part}"
            refuse(found, name, "; each label should have one name")
    for label, name in known.items() if names else ():
        if labels[name] != label:
            found = f"{name!r} has the labels {labels[name]} and {label}"
            raise ValueError(f"{where}: {found}; each name should have one label")
