"""Writes a mini set as image files in CoOp's layout.

``ROOT/mini_source/images/<class_folder>/<n>.png``, ``ROOT/mini_source/split_mini_source.json`` and ``mini.json``, which
marks the folder as written by this program and has the number of pictures and a fingerprint.
"""

import json
import logging
import os
import secrets
import shutil
from pathlib import Path

from dassl.utils import remove_abandoned
from PIL import Image
from tqdm import tqdm

from .pack import SPLITS
from .suite import PictureSet, image

log = logging.getLogger(__name__)
MARKER = "mini.json"


def ensure(dataset: PictureSet, root: Path) -> bool:
    """Write a data set under ``root`` unless ``root`` has it, complete and up to date.

    It is written to a temporary folder and moved when it is complete. An older version is replaced; a folder that holds
    anything else is left alone. ``root`` is made if it is missing.

    Returns:
        Whether anything was written.

    Raises:
        FileExistsError: the folder holds files that this program did not write.
    """
    place = Path(root) / dataset.folder
    if is_complete(dataset, place):
        return False
    if place.exists():
        _check_ours(place)
    log.info("Writing %s to %s", dataset.name, place)
    for kind in ("part", "old"):
        remove_abandoned(place.parent, f".{place.name}.*.{kind}")
    token = secrets.token_hex(4)  # containers share numbers of processes
    part = place.with_name(f".{place.name}.{token}.part")
    try:
        _write(dataset, part)
        if place.exists() and not is_complete(dataset, place):
            old = place.with_name(f".{place.name}.{token}.old")
            os.rename(place, old)
            shutil.rmtree(old)
        try:
            os.rename(part, place)
        except OSError:  # another run was quicker
            if not is_complete(dataset, place):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _write(dataset: PictureSet, place: Path) -> None:
    classes, split = dataset.classes(), {name: [] for name in SPLITS}
    jobs = [(s, c, n) for s in SPLITS for c in range(len(classes)) for n in range(dataset.images[s])]
    for name, label, number in tqdm(jobs, desc=f"writing {dataset.folder}", unit="image", leave=False, disable=None):
        # one numbering for all splits, so that no file name is used twice
        first = sum(dataset.images[s] for s in SPLITS[: SPLITS.index(name)])
        path = f"{classes[label].replace(' ', '_')}/{first + number:04d}.png"
        target = place / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(dataset, name, label, number)).save(target)
        split[name].append([path, label, classes[label]])
    if dataset.test_only:
        split = {"train": split["test"], "val": [], "test": split["test"]}
    (place / dataset.split_file).write_text(json.dumps(split), encoding="utf-8")
    mark = {"fingerprint": dataset.fingerprint(), "pictures": len(jobs)}
    (place / MARKER).write_text(json.dumps(mark), encoding="utf-8")


def is_complete(dataset: PictureSet, place: Path) -> bool:
    """Return whether ``place`` holds the data set, whole and up to date."""
    try:
        mark = json.loads((place / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    count = sum(1 for _ in (place / "images").glob("*/*.png"))
    return mark == {"fingerprint": dataset.fingerprint(), "pictures": count} and (place / dataset.split_file).is_file()


def _check_ours(place: Path) -> None:
    """Raise FileExistsError unless ``place`` holds our marker, and only our files and few-shot draws."""
    if not (place / MARKER).is_file():
        raise FileExistsError(f"{place} is in the way: this program did not write it ({MARKER} is missing); move it")
    ours = ("images/*/*.png", "split_mini_*.json", MARKER, "split_fewshot/shot_*.json")
    known = {path for pattern in ours for path in place.glob(pattern)}
    foreign = next((path for path in sorted(place.rglob("*")) if not path.is_dir() and path not in known), None)
    if foreign is not None:
        raise FileExistsError(f"{place} holds an older version and a file that is not part of it; move {foreign} first")
