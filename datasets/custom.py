"""Data sets from your files, without Python: class folders, a CSV file or a split file at ``DATASET.ROOT``."""

import csv
import io
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.registry import did_you_mean

from .classnames import names_file, rename_classes
from .config import absolute_root
from .files import log, read_text
from .folders import list_classes, subfolders
from .registry import ListedDataset, Source
from .splits import Row, Rows, Split, check_images, check_split, read_split, split_by_ratios

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
HEADER = ("path", "classname", "split")


class CustomDataset(ListedDataset):
    """Base of the three classes; a subclass reads ``DATASET.ROOT`` in ``read``.

    ``pattern`` matches the file to read if the root is a folder; "" means that the folder itself is read.
    """

    pattern = ""
    root_is_data = True  # another DATASET.ROOT is other data, not another copy of it

    @classmethod
    def read(cls, path: Path, node: Any) -> tuple[Split, Path]:
        """Return the split of a file or folder, and its image folder; ``node`` is ``cfg.DATASET``."""
        raise NotImplementedError

    @classmethod
    def source(cls, cfg: Any, keep: bool = True) -> Source:
        """Read ``DATASET.ROOT``; nothing is written."""
        node, root = cfg.DATASET, absolute_root(cfg.DATASET.ROOT)
        if not root.exists():
            raise FileNotFoundError(f"DATASET.ROOT is {cfg.DATASET.ROOT!r}, but there is no file or folder {root}")
        if node.TEMPLATE and "{}" not in node.TEMPLATE:
            raise ValueError(f"DATASET.TEMPLATE is {node.TEMPLATE!r}; it needs {{}} in place of the class name")
        path = _find_file(root, cls.pattern) if cls.pattern else root
        split, images = cls.read(path, node)
        for part in ("train", "test"):
            if not getattr(split, part):
                raise ValueError(f"data set {root} has no image for {part}")
        split = check_split(split, f"data set {root}", unique_names=True)
        folder = root if root.is_dir() else root.parent
        if node.CLASSNAMES:
            split = rename_classes(split, names_file(node.CLASSNAMES, folder))
        check_images(split, images, f"data set {root}")
        # two files in one folder are two data sets
        return Source(split, folder, images, path if cls.pattern else None, draws=path.stem if cls.pattern else "")


@DATASET_REGISTRY.register()
class Folder(CustomDataset):
    """Class folders, with or without a split:

        ROOT/<class>/**/*.jpg                      split by DATASET.RATIOS
        ROOT/{train,val,test}/<class>/**/*.jpg     split already; val is optional

    A class is named after its folder; labels number the sorted folders.
    """

    @classmethod
    def read(cls, root: Path, node: Any) -> tuple[Split, Path]:
        """List the class folders."""
        if not root.is_dir():
            raise NotADirectoryError(
                f"DATASET.ROOT is the file {root}; Folder reads a folder, Csv and SplitJson a file"
            )
        names = subfolders(root)
        parts = {name: PARTS[name] for name in names if name in PARTS}
        if not parts or set(names) - set(parts):  # a class may be called "train"
            if set(parts.values()) >= {"train", "test"}:
                extra = next(name for name in names if name not in parts)
                raise ValueError(f"{root} has train and test, and also {extra!r}; remove it or move it below them")
            classes = list_classes(root, deep=True)
            return _split([(f"{c}/{path}", c) for c, paths in classes.items() for path in paths], node), root
        if sorted(parts.values()) not in (["test", "train"], ["test", "train", "val"]):
            raise ValueError(f"{root} holds {', '.join(names)}; it should hold train, test and optionally val")
        labels = {name: label for label, name in enumerate(subfolders(root / "train"))}
        rows: dict[str, Rows] = {"val": []}
        for name, part in sorted(parts.items()):
            classes = list_classes(root / name, deep=True)
            foreign = next((c for c in classes if c not in labels), None)
            if foreign is not None:
                raise ValueError(f"class {foreign!r} of {root / name} is not in train{did_you_mean(foreign, labels)}")
            rows[part] = [Row(f"{name}/{c}/{path}", labels[c], c) for c, paths in classes.items() for path in paths]
        return Split(**rows), root


@DATASET_REGISTRY.register()
class Csv(CustomDataset):
    """A CSV file, or a folder that holds one CSV file:

        path,classname,split
        birds/0001.jpg,house sparrow,train

    The header line is optional. The third column is train, val or test; without it the images are split by
    DATASET.RATIOS. Paths are relative to DATASET.IMAGES, or to the folder of the file. Labels number the sorted names.
    """

    pattern = "*.csv"

    @classmethod
    def read(cls, path: Path, node: Any) -> tuple[Split, Path]:
        """Read the file."""
        images = _image_folder(path, node.IMAGES)
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
        pairs = []
        for _, (file, name, *_) in lines:
            pairs.append((Path(os.path.relpath(file, images)).as_posix() if os.path.isabs(file) else file, name))
        if width == 2:
            return _split(pairs, node), images
        split = Split([], [], [])
        for row, (_, line) in zip(_label(pairs), lines):
            getattr(split, PARTS[line[2].lower()]).append(row)
        return split, images


@DATASET_REGISTRY.register()
class SplitJson(CustomDataset):
    """A split file in CoOp's format, or a folder that holds one split*.json file:

        {"train": [["birds/0001.jpg", 0, "house sparrow"], ...], "val": [...], "test": [...]}

    "val" is optional. Paths are relative to DATASET.IMAGES, or to the folder of the file.
    """

    pattern = "split*.json"

    @classmethod
    def read(cls, path: Path, node: Any) -> tuple[Split, Path]:
        """Read the file."""
        return read_split(path), _image_folder(path, node.IMAGES)


CUSTOM_DATASETS = {made.__name__: made for made in (Folder, Csv, SplitJson)}


def _label(pairs: Sequence[tuple[str, str]]) -> Rows:
    """Return rows of (path, class name) pairs."""
    labels = {name: label for label, name in enumerate(sorted({name for _, name in pairs}))}
    return [Row(path, labels[name], name) for path, name in pairs]


def _split(pairs: Sequence[tuple[str, str]], node: Any) -> Split:
    ratios = node.RATIOS
    if len(ratios) != 3 or not all(isinstance(share, (int, float)) for share in ratios):
        raise ValueError(f"DATASET.RATIOS is {ratios}; it should be three numbers, the shares of train, val and test")
    log.info("Splitting %d images by %s, seed %d", len(pairs), "/".join(map(str, ratios)), node.SPLIT_SEED)
    # sorted, so that the order of lines in a file does not matter
    ordered = sorted(_label(pairs), key=lambda row: (row.label, row.path))
    return split_by_ratios(ordered, *ratios, rng=random.Random(node.SPLIT_SEED))


def _find_file(root: Path, pattern: str) -> Path:
    if not root.is_dir():
        return root
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(
            f"{root} should hold one file {pattern}, but holds {names}; give the file as DATASET.ROOT"
        )
    return found[0]


def _image_folder(file: Path, images: str) -> Path:
    folder = file.parent / os.path.expanduser(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"DATASET.IMAGES is {images!r}, but there is no folder {folder}")
    return Path(os.path.abspath(folder))
