"""Your own images, without Python: a folder, a CSV file or a split file. ``DATASET.ROOT`` is the folder or the file."""

from __future__ import annotations

import csv
import io
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from .classnames import name_classes, names_file
from .files import did_you_mean, log, read_text
from .keys import absolute
from .partition import Listing, Rows, cut_by_ratios
from .registry import ListedDataset, Source
from .scan import is_picture, sub_folders
from .splits import checked_listing, make_split, read_listing

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
HEADER = ("path", "classname", "split")


class OwnDataset(ListedDataset):
    """Base of the three: class names from a key, the rest from ``rows``. ``pattern`` is of the file to read, if any."""

    pattern = ""
    root_is_data = True  # another DATASET.ROOT is other data, not another copy of it

    @classmethod
    def rows(cls, path: Path, node: Any) -> tuple[Listing, Path]:
        """Return the rows of a file (without ``pattern``: of a folder) and the folder of images."""
        raise NotImplementedError

    @classmethod
    def source(cls, cfg: Any, keep: bool = True) -> Source:
        """Read ``DATASET.ROOT``; nothing is written."""
        node, root = cfg.DATASET, absolute(cfg.DATASET.ROOT)
        if not root.exists():
            raise FileNotFoundError(f"DATASET.ROOT is {cfg.DATASET.ROOT!r}, but there is no file or folder {root}")
        if node.TEMPLATE and "{}" not in node.TEMPLATE:
            raise ValueError(f"DATASET.TEMPLATE is {node.TEMPLATE!r}; it needs {{}} where the class name goes")
        path = _the_file(root, cls.pattern) if cls.pattern else root
        listing, images = cls.rows(path, node)
        for part in ("train", "test"):
            if not getattr(listing, part):
                raise ValueError(f"data set {root} has no image for {part}")
        checked_listing(listing, f"data set {root}", names=True)
        folder = root if root.is_dir() else root.parent
        if node.CLASSNAMES:
            listing = name_classes(listing, names_file(node.CLASSNAMES, folder))
        split = make_split(listing, images, f"data set {root}")
        # files that lie side by side are different data sets
        draws = path.stem if cls.pattern else ""
        return Source(split, folder, images, path if cls.pattern else None, draws=draws)


@DATASET_REGISTRY.register()
class Folder(OwnDataset):
    """Class folders, divided or not:

        ROOT/<class>/**/*.jpg                      divided by DATASET.RATIOS
        ROOT/{train,val,test}/<class>/**/*.jpg     divided already; val may be missing

    A class is named after its folder; labels count the sorted folders.
    """

    @classmethod
    def rows(cls, root: Path, node: Any) -> tuple[Listing, Path]:
        """List the class folders."""
        if not root.is_dir():
            raise NotADirectoryError(
                f"DATASET.ROOT is the file {root}; Folder reads a folder, Csv and SplitJson a file"
            )
        names = sub_folders(root)
        divided = {name: PARTS[name] for name in names if name in PARTS}
        if not divided or set(names) - set(divided):  # a class may be called "train"
            if set(divided.values()) >= {"train", "test"}:
                extra = next(name for name in names if name not in divided)
                raise ValueError(f"{root} has train and test, and also {extra!r}: move it away, or put it under them")
            classes = _classes(root, names)
            return _divide([(path, c, c) for c, paths in classes.items() for path in paths], node), root
        if sorted(divided.values()) not in (["test", "train"], ["test", "train", "val"]):
            raise ValueError(f"{root} holds {', '.join(names)}; it should hold train, test and, if you have it, val")
        labels = {name: label for label, name in enumerate(sub_folders(root / "train"))}
        parts: dict[str, Rows] = {}
        for name, part in sorted(divided.items()):
            classes = _classes(root / name, sub_folders(root / name))
            foreign = next((c for c in classes if c not in labels), None)
            if foreign is not None:
                raise ValueError(f"class {foreign!r} of {root / name} is not in train{did_you_mean(foreign, labels)}")
            parts[part] = [(f"{name}/{path}", labels[c], c) for c, paths in classes.items() for path in paths]
        return Listing(parts["train"], parts.get("val", []), parts["test"]), root


@DATASET_REGISTRY.register()
class Csv(OwnDataset):
    """A CSV file, or a folder that holds one CSV file:

        path,classname,split
        birds/0001.jpg,house sparrow,train

    The line of titles may be missing. Without the third column the images are divided by DATASET.RATIOS; else it says
    train, val or test. Paths are relative to DATASET.IMAGES, or to the file's folder. Labels count the sorted names.
    """

    pattern = "*.csv"

    @classmethod
    def rows(cls, path: Path, node: Any) -> tuple[Listing, Path]:
        """Read the file."""
        images = _images(path, node.IMAGES)
        found = enumerate(csv.reader(io.StringIO(read_text(path, "CSV file"), newline="")), 1)
        lines = [(number, [word.strip() for word in line]) for number, line in found if any(line)]
        if lines and tuple(word.lower() for word in lines[0][1]) in (HEADER[:2], HEADER):
            del lines[0]
        if not lines:
            raise ValueError(f"{path} has no rows; they should be {','.join(HEADER[:2])}[,{HEADER[2]}]")
        width = len(lines[0][1])
        for number, line in lines:
            where = f"{path}, line {number}"
            if len(line) != width or width not in (2, 3) or not all(line):
                raise ValueError(
                    f"{where}: found {line}; it should be path,classname or, in all lines, {','.join(HEADER)}"
                )
            if width == 3 and line[2].lower() not in PARTS:
                raise ValueError(f"{where}: split {line[2]!r}; allowed: train, val, test{did_you_mean(line[2], PARTS)}")
        rows = [(_inside(line[0], images), line[1], line[1]) for _, line in lines]
        if width == 2:
            return _divide(rows, node), images
        parts = Listing([], [], [])
        for row, (_, line) in zip(_label(rows), lines):
            getattr(parts, PARTS[line[2].lower()]).append(row)
        return parts, images


@DATASET_REGISTRY.register()
class SplitJson(OwnDataset):
    """A split file as CoOp's, or a folder that holds one split*.json file:

        {"train": [["birds/0001.jpg", 0, "house sparrow"], ...], "val": [...], "test": [...]}

    "val" may be missing. Paths are relative to DATASET.IMAGES, or to the file's folder.
    """

    pattern = "split*.json"

    @classmethod
    def rows(cls, path: Path, node: Any) -> tuple[Listing, Path]:
        """Read the file."""
        return read_listing(path), _images(path, node.IMAGES)


OWN_DATASETS = {made.__name__: made for made in (Folder, Csv, SplitJson)}


def _classes(folder: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return class -> its images, relative to ``folder``, sorted; images may lie in folders of a class folder."""
    if not names:
        raise ValueError(f"{folder} has no class folders; each class should have its own, with its images")
    classes = {}
    for name in names:
        found = (p.relative_to(folder) for p in (folder / name).rglob("*") if is_picture(p.name) and p.is_file())
        classes[name] = sorted(path.as_posix() for path in found)
        if not classes[name]:
            raise ValueError(f"class folder {folder / name} holds no image; fill it or remove it")
    return classes


def _label(rows: Sequence[tuple[str, str, str]]) -> Rows:
    labels = {name: label for label, name in enumerate(sorted({row[1] for row in rows}))}
    return [(path, labels[key], name) for path, key, name in rows]


def _divide(rows: Sequence[tuple[str, str, str]], node: Any) -> Listing:
    ratios = node.RATIOS
    if len(ratios) != 3 or not all(isinstance(share, (int, float)) for share in ratios):
        raise ValueError(f"DATASET.RATIOS is {ratios}; it should be three numbers, the shares of train, val and test")
    log.info("Dividing %d images by %s, seed %d", len(rows), "/".join(map(str, ratios)), node.SPLIT_SEED)
    # each class sorted, so that the order of a file's lines does not matter
    ordered = sorted(_label(rows), key=lambda row: (row[1], row[0]))
    return cut_by_ratios(ordered, *ratios, rng=random.Random(node.SPLIT_SEED))


def _the_file(root: Path, pattern: str) -> Path:
    if not root.is_dir():
        return root
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(
            f"{root} should hold one file {pattern}, but holds {names}; give the file as DATASET.ROOT"
        )
    return found[0]


def _images(file: Path, images: str) -> Path:
    folder = file.parent / os.path.expanduser(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"DATASET.IMAGES is {images!r}, but there is no folder {folder}")
    return Path(os.path.abspath(folder))


def _inside(path: str, images: Path) -> str:
    return os.path.relpath(path, images).replace(os.sep, "/") if os.path.isabs(path) else path
