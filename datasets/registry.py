"""From the description of a data set to its class in Dassl's registry; few shots and classes selected by the config."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from .config import absolute_root, check_custom_keys, check_template, data_root
from .fewshot import few_shot
from .files import DRAWS, cache_root, draw_folder, log, split_folder, write_json
from .splits import Rows, Split, check_images, check_split, check_subsample, drawn_with, read_split, subsample_classes


class Counts(NamedTuple):
    """Numbers of classes and images of a complete copy of a data set."""

    classes: int
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Description:
    """A data set with a fixed folder name."""

    name: str  # registry name, DATASET.NAME
    folder: str  # under DATASET.ROOT
    split: str  # file name of the split file in the folder; "": the data set has none
    images: str = "images"  # image folder in the folder; "": the folder itself
    test_only: bool = False  # a variant of ImageNet: train is test, NUM_SHOTS and SUBSAMPLE_CLASSES are ignored
    prepare: Callable[[Path], Any] | None = None  # generates the data set below a root
    read: Callable[[Path, Path], Split] | None = None  # (folder, image folder) -> split, if there is no split file
    # A complete folder: ``layout`` prints this, ``check`` compares a folder with it.
    pictures: tuple[tuple[str, str], ...] = ()  # (glob pattern of image paths, remark)
    source: str = ""  # where it can be downloaded; "" for generated ones
    counts: Counts | None = None  # None for generated ones
    files: tuple[str, ...] = ()  # annotation files, needed if there is no split file
    mistakes: tuple[tuple[str, str, str], ...] = ()  # (path after a common mistake, right path, how to mend it)

    def split_file(self, folder: Path) -> Path | None:
        """Return the existing split file: the one in ``folder``, or one drawn into the cache; None for neither."""
        places = [place for place in (folder, cache_root(folder)) if place is not None] if self.split else []
        return next((path for place in places if (path := place / self.split).is_file()), None)

    def split_note(self, folder: Path) -> str:
        """Return a note if the split was or will be drawn by us, so that it is not the published one; else ""."""
        path = self.split_file(folder)
        if path is None:
            drawn = "train, val and test will be drawn here, unlike the published ones"
            return f"no {self.split}: {drawn}" if self.split and self.read is not None else ""
        how = drawn_with(path)
        return f"{path} was drawn here (seed {how.get('seed')}), unlike the published split" if how else ""

    def load(self, folder: Path, keep: bool = True, seed: int = -1) -> Split:
        """Return the split of the split file, or else of the annotations, without checks.

        ``keep`` allows to write a newly drawn split, with the ``seed`` of the global ``random``, to a split file. A
        missing file raises FileNotFoundError, a malformed one ValueError.
        """
        path = self.split_file(folder)
        if path is not None or self.read is None:
            return read_split(path or folder / self.split)
        split = self.read(folder, folder / self.images)
        if self.split and keep:
            path = split_folder(folder) / self.split
            content = {**split._asdict(), "drawn": {"seed": seed}}  # CoOp ignores the key "drawn"
            if not write_json(content, path, overwrite=False):  # another process has just drawn one
                return read_split(path)
            log.warning(
                "%s: %s has no %s; a split was drawn and saved to %s (published results are on the published split)",
                self.name, folder, self.split, path,
            )  # fmt: skip
        return split


class Source(NamedTuple):
    """A data set found on disk."""

    split: Split  # all its images
    folder: Path
    images: Path  # image folder
    file: Path | None = None  # that the split was read from; None for class folders and annotations
    test_only: bool = False  # as in Description
    draws: str = ""  # subfolder of split_fewshot for its draws
    left_out: Mapping[str, list[str]] = {}  # reason -> files and folders that are not images of it


class ListedDataset(DatasetBase):
    """Base of all data sets here: find the source, draw few shots, keep base or new classes."""

    @classmethod
    def source(cls, cfg: Any, keep: bool = True) -> Source:
        """Return the data set that ``cfg.DATASET`` names; ``keep`` allows to write a newly drawn split."""
        raise NotImplementedError

    def __init__(self, cfg: Any) -> None:
        check_subsample(cfg.DATASET.SUBSAMPLE_CLASSES)
        check_template(cfg.DATASET)
        source = self.source(cfg)
        self.dataset_dir, self.image_dir = str(source.folder), str(source.images)
        self.split_path = str(source.file or "")  # CoOp's name of this attribute
        self.split_drawn = drawn_with(source.file)

        def images(rows: Rows) -> list[Datum]:
            return [Datum(os.path.join(self.image_dir, path), label, 0, name) for path, label, name in rows]

        split = select(source, cfg)
        train = images(split.train)
        test = train if source.test_only else images(split.test)
        super().__init__(train_x=train, val=images(split.val) or None, test=test)
        self.image_notes = {note: len(paths) for note, paths in self.look(source).items()}

    def look(self, source: Source) -> dict[str, list[str]]:
        """Look at the images before they are used; return note -> files. Hook of custom data sets."""
        return {}


def select(source: Source, cfg: Any, keep: bool = True) -> Split:
    """Return the split that ``DATASET.NUM_SHOTS``, ``DATASET.SUBSAMPLE_CLASSES`` and ``SEED`` select.

    ``keep`` allows to write a new few-shot draw.
    """
    split = source.split
    if source.test_only:
        return Split(split.test, [], split.test)
    if cfg.DATASET.NUM_SHOTS >= 1:
        # drawn from all classes, so that runs on base and on new classes share one draw
        folder, pickles = draw_folder(source.folder) / source.draws, source.folder / DRAWS
        split = few_shot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED, folder, pickles, keep)
    return subsample_classes(split, cfg.DATASET.SUBSAMPLE_CLASSES)


class DescribedDataset(ListedDataset):
    """Base of the data sets made from a ``Description``."""

    description: Description

    @classmethod
    def source(cls, cfg: Any, keep: bool = True) -> Source:
        """Read the data set under ``DATASET.ROOT``."""
        about = cls.description
        check_custom_keys(about.name, cfg.DATASET)
        if about.prepare is not None and keep:  # the set is written here: a root that its parent folder lacks is made
            with suppress(OSError):
                absolute_root(cfg.DATASET.ROOT).mkdir()
            about.prepare(data_root(cfg.DATASET.ROOT))
        root = data_root(cfg.DATASET.ROOT)
        folder = root / about.folder
        images = folder / about.images
        try:
            if not folder.is_dir():
                raise FileNotFoundError(f"data set {about.name}: no folder {folder}; DATASET.ROOT is {root}")
            where = about.split or f"data set {about.name}"
            split = check_split(about.load(folder, keep, cfg.SEED), where)
            check_images(split, images, where)
        except (FileNotFoundError, ValueError) as error:
            advice = f"; `python -m datasets check {about.name} --root {root}` says more" if about.source else ""
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"{error}{advice}") from None
        return Source(split, folder, images, about.split_file(folder), about.test_only)


def register(description: Description) -> type[DescribedDataset]:
    """Make the class of a description, register it under its name, and return it."""
    about = f"{description.name}, read from {description.folder}/{description.split or description.images}."
    made = type(description.name, (DescribedDataset,), {"description": description, "__doc__": about})
    DATASET_REGISTRY.register()(made)
    return made
