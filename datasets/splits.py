"""Which images are trained, validated and tested on: split files, few-shot draws, base and new classes.

A split file is CoOp's: ``{"train": [[path, label, classname], ...], "val": ..., "test": ...}`` with paths relative to the
folder of images. The same form, with paths relative to the same folder, caches few-shot draws as
``shot_{K}-seed_{S}.json`` (JSON, because a pickle from a shared folder runs code).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, NamedTuple

from dassl.data.datasets import Datum

log = logging.getLogger(__name__)

CACHE_VARIABLE = "ALIGN_CACHE"
SUBSAMPLES = ("all", "base", "new")
Items = list[Datum]


class Split(NamedTuple):
    """Images to train on, to choose by, and to test on."""

    train: Items
    val: Items
    test: Items


def _read_json(path: Path, what: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{what} not found: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{what} {path} holds a {type(content).__name__}; it should be an object of lists")
    return content


def _items(rows: object, images: Path, where: str) -> Items:
    if not isinstance(rows, list):
        raise ValueError(f"{where} is a {type(rows).__name__}; it should be a list of [path, label, classname]")
    items = []
    for number, row in enumerate(rows):
        right = isinstance(row, (list, tuple)) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], str)
        if not right or isinstance(row[1], bool) or not isinstance(row[1], int) or row[1] < 0:
            raise ValueError(f"{where}, row {number}: found {row!r}; it should be [path, label >= 0, classname]")
        if os.path.isabs(row[0]) or ".." in Path(row[0]).parts:
            raise ValueError(f"{where}, row {number}: the path {row[0]!r} leaves the folder of images {images}")
        path = images / row[0]
        if not path.is_file():
            raise FileNotFoundError(f"{where}, row {number}: no such image: {path}")
        items.append(Datum(impath=str(path), label=row[1], classname=row[2]))
    return items


def _rows(items: Sequence[Datum], images: Path) -> list[list]:
    return [[Path(os.path.relpath(d.impath, images)).as_posix(), d.label, d.classname] for d in items]


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
    path, images = Path(path), Path(images)
    content = _read_json(path, "split file")
    for part in ("train", "test"):
        if not content.get(part):
            raise ValueError(f"split file {path}: {part!r} is {'empty' if part in content else 'missing'}")
    return Split(*(_items(content.get(part, []), images, f"split file {path}, {part!r}") for part in Split._fields))


def cache_folder(dataset_dir: str | os.PathLike[str]) -> Path:
    """Return where the few-shot draws of a data set are kept.

    ``$ALIGN_CACHE/<name of the data folder>/split_fewshot`` if that variable is set; else ``split_fewshot`` in the
    data folder, CoOp's place, if it can be written to; else ``~/.cache/align/<name of the data folder>/split_fewshot``.
    """
    folder = Path(dataset_dir)
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser() / folder.name / "split_fewshot"
    usual = folder / "split_fewshot"
    if os.access(usual if usual.exists() else folder, os.W_OK | os.X_OK):
        return usual
    return Path.home() / ".cache" / "align" / folder.name / "split_fewshot"


def _fingerprint(train: Items, val: Items, images: Path) -> str:
    return hashlib.sha256(json.dumps([_rows(train, images), _rows(val, images)]).encode()).hexdigest()[:16]


def few_shot(
    split: Split,
    shots: int,
    seed: int,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    draw: Callable[[Items, int], Items],
) -> Split:
    """Return the split with ``shots`` training and min(shots, 4) validation images of every class.

    A draw that is in ``folder`` is read, and then no random number is used; else train is drawn, then val, and kept.

    Args:
        split: the whole split, all classes.
        shots: images a class, at least 1.
        seed: names the cached file; it seeds nothing (the caller has seeded ``random``).
        images: folder that cached paths are relative to.
        folder: where draws are kept, see ``cache_folder``.
        draw: (items, shots) -> items, by the ecosystem's rule: for each label in order of first appearance,
            ``random.sample(items of the label, shots)``, or all of them if there are fewer.

    Returns:
        The few-shot train and val, and the whole test.

    Raises:
        ValueError: if a cached draw is malformed or was made from another split.
    """
    images, path = Path(images), Path(folder) / f"shot_{shots}-seed_{seed}.json"
    fingerprint = _fingerprint(split.train, split.val, images)
    if path.exists():
        return _read_few_shot(path, split, images, fingerprint)
    train = draw(split.train, shots)
    val = draw(split.val, min(shots, 4)) if split.val else []
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    content = {"split": fingerprint, "train": _rows(train, images), "val": _rows(val, images)}
    part.write_text(json.dumps(content), encoding="utf-8")
    os.replace(part, path)  # in one step: a run beside this one reads all of it or nothing
    log.info("Few-shot draw saved to %s", path)
    return Split(train, val, split.test)


def _read_few_shot(path: Path, split: Split, images: Path, fingerprint: str) -> Split:
    content = _read_json(path, "few-shot draw")
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


def check_subsample(subsample: str) -> None:
    """Raise ValueError unless ``subsample`` is all, base or new."""
    if subsample not in SUBSAMPLES:
        near = difflib.get_close_matches(str(subsample), SUBSAMPLES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"DATASET.SUBSAMPLE_CLASSES is {subsample!r}; allowed: {', '.join(SUBSAMPLES)}.{hint}")


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
