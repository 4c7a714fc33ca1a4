"""Which images are trained, validated and tested on: split files, few-shot draws, base and new classes.

A split file is CoOp's: ``{"train": [[path, label, classname], ...], "val": ..., "test": ...}`` with paths relative to
the folder of images; one that was drawn here has also ``"drawn": {"seed": ...}``. The same form, with paths relative to
the same folder, caches few-shot draws as ``shot_{K}-seed_{S}.json`` (JSON, because a pickle from a shared folder runs
code; CoOp's own ``shot_{K}-seed_{S}.pkl`` is read by a reader that runs none).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, NamedTuple

from dassl.data.datasets import Datum

from .files import cache_folder, did_you_mean, log, read_json, write_json
from .legacy import Record, read_pickled_draw, relocate
from .partition import Listing, Rows, check_classes

__all__ = [
    "Items", "Split", "cache_folder", "check_subsample", "checked_listing", "checked_rows", "drawn_with", "few_shot",
    "make_split", "read_listing", "read_split", "subsample_classes",
]  # fmt: skip
SUBSAMPLES = ("all", "base", "new")
Items = list[Datum]


class Split(NamedTuple):
    """Images to train on, to choose by, and to test on."""

    train: Items
    val: Items
    test: Items


def checked_rows(rows: object, where: str) -> Rows:
    """Return rows as they are, or raise ValueError if one is not [path inside the folder, label >= 0, classname]."""
    if not isinstance(rows, list):
        raise ValueError(f"{where} is a {type(rows).__name__}; it should be a list of [path, label, classname]")
    for number, row in enumerate(rows):
        right = isinstance(row, (list, tuple)) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], str)
        if not right or isinstance(row[1], bool) or not isinstance(row[1], int) or row[1] < 0:
            raise ValueError(f"{where}, row {number}: found {row!r}; it should be [path, label >= 0, classname]")
        if os.path.isabs(row[0]) or ".." in row[0].split("/"):
            raise ValueError(f"{where}, row {number}: the path {row[0]!r} leaves the folder of images")
    return rows


def checked_listing(listing: Listing, where: str, names: bool = False) -> Listing:
    """Return a listing as it is, or raise ValueError if a row is malformed or its classes do not fit together.

    Args:
        listing: rows as they were read.
        where: where the listing is from, for the error's words.
        names: see ``check_classes``.
    """
    for part, rows in zip(Split._fields, listing):
        checked_rows(rows, f"{where}, {part!r}")
    check_classes(listing, where, names)
    return listing


def _items(rows: object, images: Path, where: str) -> Items:
    items = []
    for number, (path, label, classname) in enumerate(checked_rows(rows, where)):
        try:
            items.append(Datum(impath=os.path.join(images, path), label=label, classname=classname))
        except FileNotFoundError:
            missing = os.path.join(images, path)
            raise FileNotFoundError(f"{where}, row {number}: no such image: {missing}") from None
    return items


def _relative(item: Datum, images: Path) -> str:
    prefix = f"{images}{os.sep}"
    if item.impath.startswith(prefix):  # quick: ImageNet has a million
        return item.impath[len(prefix) :].replace(os.sep, "/")
    return Path(os.path.relpath(item.impath, images)).as_posix()


def _rows(items: Sequence[Datum], images: Path) -> list[list]:
    return [[_relative(d, images), d.label, d.classname] for d in items]


def read_listing(path: str | os.PathLike[str]) -> Listing:
    """Read a split file's rows, without a look at them (``checked_rows``) or at the images (``make_split``).

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is not of the right form, or train or test is empty.
    """
    content = read_json(Path(path), "split file")
    for part in ("train", "test"):
        if not content.get(part):
            raise ValueError(f"split file {path}: {part!r} is {'empty' if part in content else 'missing'}")
    return Listing(*(content.get(part, []) for part in Split._fields))


def drawn_with(path: Path | None) -> dict[str, int] | None:
    """Return how a split file was drawn, ``{"seed": ...}``, if it was drawn here; None for any other file or none."""
    found = read_json(path, "split file").get("drawn") if path and path.suffix == ".json" else None
    return found if isinstance(found, dict) else None


def make_split(listing: Listing, images: str | os.PathLike[str], where: str) -> Split:
    """Return a listing's rows as images.

    Args:
        listing: rows with paths relative to ``images``.
        images: folder of images.
        where: where the listing is from, for the error's words.

    Raises:
        FileNotFoundError: if an image is missing.
        ValueError: if a row is malformed or leaves the folder.
    """
    parts = zip(Split._fields, listing)
    return Split(*(_items(rows, Path(images), f"{where}, {part!r}") for part, rows in parts))


def read_split(path: str | os.PathLike[str], images: str | os.PathLike[str]) -> Split:
    """Read a split file.

    Args:
        path: the split file.
        images: folder that its paths are relative to.

    Returns:
        Train, val and test, in the file's order ("val" may be missing or empty).

    Raises:
        FileNotFoundError: if the file or an image is missing.
        ValueError: if the file is not of the right form, or train or test is empty.
    """
    return make_split(read_listing(path), images, f"split file {path}")


def _fingerprint(train: Items, val: Items, images: Path) -> str:
    return hashlib.sha256(json.dumps([_rows(train, images), _rows(val, images)]).encode()).hexdigest()[:16]


def few_shot(
    split: Split,
    shots: int,
    seed: int,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    draw: Callable[[Items, int], Items],
    pickles: str | os.PathLike[str] | None = None,
    keep: bool = True,
) -> Split:
    """Return the split with ``shots`` training and min(shots, 4) validation images of every class.

    A draw that is there is read, and then no random number is used: ours in ``folder``, else CoOp's in ``pickles``.
    Else train is drawn, then val, and kept in ``folder``.

    Args:
        split: the whole split, all classes.
        shots: images a class, at least 1.
        seed: names the cached file; it seeds nothing (the caller has seeded ``random``).
        images: folder that cached paths are relative to.
        folder: where draws are kept, see ``cache_folder``.
        draw: (items, shots) -> items, by the ecosystem's rule: for each label in order of first appearance,
            ``random.sample(items of the label, shots)``, or all of them if there are fewer.
        pickles: folder of CoOp's ``shot_{K}-seed_{S}.pkl``, if any; absolute paths in them are mapped to this split's.
        keep: whether a new draw is written.

    Returns:
        The few-shot train and val, and the whole test.

    Raises:
        ValueError: if a cached draw is malformed or was made from another split.
    """
    images, path = Path(images), Path(folder) / f"shot_{shots}-seed_{seed}.json"
    fingerprint = _fingerprint(split.train, split.val, images)
    if path.exists():
        return _read_few_shot(path, split, images, fingerprint)
    old = Path(pickles or folder) / f"{path.stem}.pkl"
    if old.exists():
        return _read_pickled(old, split, images)
    train = draw(split.train, shots)
    val = draw(split.val, min(shots, 4)) if split.val else []
    if keep:
        write_json({"split": fingerprint, "train": _rows(train, images), "val": _rows(val, images)}, path)
        log.info("Few-shot draw saved to %s", path)
    return Split(train, val, split.test)


def _read_few_shot(path: Path, split: Split, images: Path, fingerprint: str) -> Split:
    content = read_json(path, "few-shot draw")
    if content.get("split") != fingerprint:
        raise ValueError(f"few-shot draw {path} was made from another split than the data set's; remove it")
    train, val = (_items(content.get(part), images, f"few-shot draw {path}, {part!r}") for part in ("train", "val"))
    for part, whole in ((train, split.train), (val, split.val)):
        known = {(d.impath, d.label, d.classname) for d in whole}
        foreign = next((d for d in part if (d.impath, d.label, d.classname) not in known), None)
        if foreign is not None:
            raise ValueError(f"few-shot draw {path} holds {foreign.impath}, which the split does not; remove the file")
    log.info("Few-shot draw read from %s", path)
    return Split(train, val, split.test)


def _read_pickled(path: Path, split: Split, images: Path) -> Split:
    records = read_pickled_draw(path)

    def items(part: str, whole: Items) -> Items:
        known = {_relative(d, images): d for d in whole}
        return [known[_known_path(record, known, path)] for record in records.get(part, [])]

    train, val = items("train", split.train), items("val", split.val)
    if not train or bool(val) != bool(split.val):
        found = f"{len(train)} training and {len(val)} validation images"
        raise ValueError(f"few-shot pickle {path} has {found}; remove the file")
    log.info("Few-shot draw read from %s", path)
    return Split(train, val, split.test)


def _known_path(record: Record, known: dict[str, Datum], path: Path) -> str:
    found = relocate(record.path, known)
    if found is None or (known[found].label, known[found].classname) != (record.label, record.classname):
        said = f"{record.path} (label {record.label}, {record.classname!r})"
        raise ValueError(
            f"few-shot pickle {path} was drawn from another split: it holds {said}, which this split's part does not; "
            "bring back that split file or remove the pickle"
        )
    return found


def check_subsample(subsample: str) -> None:
    """Raise ValueError unless ``subsample`` is all, base or new."""
    if subsample not in SUBSAMPLES:
        hint = did_you_mean(subsample, SUBSAMPLES) or "."
        raise ValueError(f"DATASET.SUBSAMPLE_CLASSES is {subsample!r}; allowed: {', '.join(SUBSAMPLES)}{hint}")


def subsample_classes(split: Split, subsample: str) -> Split:
    """Keep the base classes (the first ceil(n / 2) labels in sorted order), the new ones (the rest), or all.

    Args:
        split: images of all classes; the labels are those of train.
        subsample: "all", "base" or "new".

    Returns:
        The split with the chosen classes, relabelled from 0 in sorted order (unchanged for "all").

    Raises:
        ValueError: if ``subsample`` is another word, or train or test has no image left.
    """
    check_subsample(subsample)
    if subsample == "all":
        return split
    labels = sorted({d.label for d in split.train})
    half = -(-len(labels) // 2)
    chosen = {label: i for i, label in enumerate(labels[:half] if subsample == "base" else labels[half:])}
    parts = [
        [Datum(impath=d.impath, label=chosen[d.label], domain=d.domain, classname=d.classname)
         for d in part if d.label in chosen] for part in split
    ]  # fmt: skip
    kept = Split(*parts)
    for name in ("train", "test"):
        if not getattr(kept, name):
            found = f"{len(labels)} classes in train, {len(chosen)} of them {subsample}"
            raise ValueError(f"DATASET.SUBSAMPLE_CLASSES {subsample!r} leaves {name} empty ({found})")
    return kept
