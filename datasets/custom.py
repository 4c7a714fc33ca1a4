"""Data sets from your files, without Python: class folders, a CSV file or a split file at ``DATASET.ROOT``."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.registry import did_you_mean

from .classnames import names_file, rename_classes
from .config import absolute_root, check_template
from .csv_rows import HEADER, read_rows
from .files import brief, log
from .folders import SUFFIXES, LeftOut, list_classes, subfolders
from .registry import ListedDataset, Source
from .splits import Row, Rows, Split, check_images, check_split, read_split, split_by_ratios
from .survey import note_lines, survey

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class CustomDataset(ListedDataset):
    """Base of the three classes; a subclass reads ``DATASET.ROOT`` in ``read``.

    ``pattern`` matches the file to read if the root is a folder; "" means that the folder itself is read.
    """

    pattern = ""
    root_is_data = True  # another DATASET.ROOT is other data, not another copy of it
    turn_images = True  # default of INPUT.EXIF

    @classmethod
    def read(cls, path: Path, node: Any, left_out: LeftOut) -> tuple[Split, Path]:
        """Return the split of a file or folder, and its image folder; ``node`` is ``cfg.DATASET``.

        ``left_out`` is filled with the files in the folder that are not taken.
        """
        raise NotImplementedError

    @classmethod
    def source(cls, cfg: Any, keep: bool = True) -> Source:
        """Read ``DATASET.ROOT``; nothing is written."""
        node, root = cfg.DATASET, absolute_root(cfg.DATASET.ROOT)
        if not root.exists():
            raise FileNotFoundError(f"DATASET.ROOT is {cfg.DATASET.ROOT!r}, but there is no file or folder {root}")
        check_template(node)
        left_out: LeftOut = defaultdict(list)
        path = _find_file(root, cls.pattern) if cls.pattern else root
        split, images = cls.read(path, node, left_out)
        for part in ("train", "test"):
            if not getattr(split, part):
                raise ValueError(f"data set {root} has no image for {part}")
        split = check_split(split, f"data set {root}", unique_names=True)
        split = Split(*([row._replace(path=_one_spelling(row.path, images)) for row in part] for part in split))
        _check_one_class(split, f"data set {root}")
        folder = root if root.is_dir() else root.parent
        if node.CLASSNAMES:
            file = names_file(node.CLASSNAMES, folder)
            split = check_split(rename_classes(split, file), str(file))
        check_images(split, images, f"data set {root}")
        # two files in one folder are two data sets
        file = path if cls.pattern else None
        return Source(split, folder, images, file, draws=path.stem if file else "", left_out=left_out)

    def look(self, source: Source) -> dict[str, list[str]]:
        """Open the images of the run; log what was left out of the data set and what is unusual, and return both.

        Raises:
            ValueError: a file is not an image, or too large.
        """
        training = [datum.impath for datum in [*self.train_x, *(self.val or [])]]
        notes = survey(training, [datum.impath for datum in self.test])
        for line in [*note_lines(source.left_out, "Left out: "), *note_lines(notes, "Images: ")]:
            log.warning("%s", line)
        return {**{f"left out: {reason}": paths for reason, paths in source.left_out.items()}, **notes}


@DATASET_REGISTRY.register()
class Folder(CustomDataset):
    """Class folders, with or without a split:

        ROOT/<class>/**/*.jpg                      split by DATASET.RATIOS
        ROOT/{train,val,test}/<class>/**/*.jpg     split already; val is optional

    A class is named after its folder; labels number the sorted folders.
    """

    @classmethod
    def read(cls, root: Path, node: Any, left_out: LeftOut) -> tuple[Split, Path]:
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
            classes = list_classes(root, left_out=left_out)
            return _split([(f"{c}/{path}", c) for c, paths in classes.items() for path in paths], node), root
        if sorted(parts.values()) not in (["test", "train"], ["test", "train", "val"]):
            raise ValueError(f"{root} holds {', '.join(names)}; it should hold train, test and optionally val")
        labels = {name: label for label, name in enumerate(subfolders(root / "train"))}
        rows: dict[str, Rows] = {"val": []}
        for name, part in sorted(parts.items()):
            classes = list_classes(root / name, left_out=left_out)
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

    The header line is optional; with one, columns may have another order, other usual names (filename, label), and
    further columns are not read. The third column is train, val or test; without it the images are split by
    DATASET.RATIOS. Paths are relative to DATASET.IMAGES, or to the folder of the file. Labels number the sorted names.
    """

    pattern = "*.csv"

    @classmethod
    def read(cls, path: Path, node: Any, left_out: LeftOut) -> tuple[Split, Path]:
        """Read the file."""
        images = _image_folder(path, node.IMAGES)
        lines, header = read_rows(path)
        first = lines[0][1]
        width, is_image = len(first), first[0].lower().endswith(SUFFIXES)
        is_file = os.path.isfile(os.path.join(images, _one_spelling(first[0], images)))
        if not header and width in (2, 3) and not is_image and not is_file:
            raise ValueError(
                f"{path}, line 1: found {brief(first)}; {brief(first[0])} is no image, and a header needs a column "
                f"{HEADER[0]} (or filename, ...) and a column {HEADER[1]} (or label, ...)"
            )
        pairs = []
        for number, line in lines:
            where = f"{path}, line {number}"
            if len(line) != width or width not in (2, 3) or not all(line):
                allowed = f"path,classname or, in all lines, {','.join(HEADER)}"
                raise ValueError(f"{where}: found {brief(line)}; it should be {allowed}")
            if width == 3 and line[2].lower() not in PARTS:
                near = did_you_mean(line[2], PARTS)
                raise ValueError(f"{where}: split {brief(line[2])}; allowed: train, val, test{near}")
            pairs.append((_one_spelling(line[0], images), line[1]))
        if width == 2:
            if twice := [file for file, count in Counter(file for file, _ in pairs).items() if count > 1]:
                danger = "is in it twice, and could be split between train and test"
                raise ValueError(f"{path}: the image {brief(twice[0])} {danger}")
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
    def read(cls, path: Path, node: Any, left_out: LeftOut) -> tuple[Split, Path]:
        """Read the file."""
        return read_split(path), _image_folder(path, node.IMAGES)


CUSTOM_DATASETS = {made.__name__: made for made in (Folder, Csv, SplitJson)}


def _one_spelling(file: str, images: Path) -> str:
    r"""Return a path relative to ``images``: ``im/cat/0.jpg`` also for ``im\cat\0.jpg`` and ``./im//cat/0.jpg``."""
    if os.path.isabs(file):
        file = Path(os.path.relpath(file, images)).as_posix()
    if "\\" in file and (os.sep == "\\" or not os.path.isfile(os.path.join(images, file))):
        file = file.replace("\\", "/")
    return "/".join(part for part in file.split("/") if part not in ("", "."))


def _check_one_class(split: Split, where: str) -> None:
    known: dict[str, Row] = {}
    for row in chain(*split):
        other = known.setdefault(row.path, row)
        if other.label != row.label:
            classes = f"{other.classname!r} and {row.classname!r}"
            raise ValueError(f"{where}: the image {brief(row.path)} is in two classes, {classes}")


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
    found = sorted(path for path in root.glob(pattern) if path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        remedy = "give the file as DATASET.ROOT"
        raise FileNotFoundError(f"{root} should hold one file {pattern}, but holds {names}; {remedy}")
    return found[0]


def _image_folder(file: Path, images: str) -> Path:
    folder = file.parent / os.path.expanduser(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"DATASET.IMAGES is {images!r}, but there is no folder {folder}")
    return Path(os.path.abspath(folder))
