"""Data sets as short descriptions, made into classes of the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from .files import cache_folder, cache_root, log, split_place, write_json
from .keys import check_keys, data_root
from .partition import Listing
from .splits import (
    Split,
    check_subsample,
    checked_listing,
    drawn_with,
    few_shot,
    make_split,
    read_listing,
    subsample_classes,
)


class Counts(NamedTuple):
    """What a complete copy of a data set has."""

    classes: int
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Card:
    """What to put into a data set's folder: ``layout`` prints it, ``check`` compares a folder with it.

    Args:
        pictures: pattern of the images' paths, and a word about it.
        source: where the set comes from.
        counts: what a complete copy has.
        files: annotation files, needed where there is no split file.
        mistakes: a path that is there after a common mistake, the one it should have become, and what to do about it.
    """

    pictures: tuple[tuple[str, str], ...]
    source: str
    counts: Counts
    files: tuple[str, ...] = ()
    mistakes: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Description:
    """A data set in a folder of its own.

    Args:
        name: registry name, ``DATASET.NAME``.
        folder: the data set's folder under ``DATASET.ROOT``.
        split: the split file in that folder; "" if the set has none.
        images: folder of images in that folder ("" for itself).
        test_only: a variant to test on, as ImageNet's are: test also stands in for train, there is no val, and
            NUM_SHOTS and SUBSAMPLE_CLASSES are not looked at.
        prepare: called with the root before reading, for sets that can be made on the spot.
        read: (data set's folder, folder of images) -> rows, where there is no split file.
        card: what people need to know of the folder.
    """

    name: str
    folder: str
    split: str
    images: str = "images"
    test_only: bool = False
    prepare: Callable[[Path], Any] | None = None
    read: Callable[[Path, Path], Listing] | None = None
    card: Card | None = None

    def split_file(self, folder: Path) -> Path | None:
        """Return the split file to read: the one in ``folder``, one drawn here, or None if there is neither."""
        places = [folder / self.split, cache_root(folder) / self.split] if self.split else []
        return next((path for path in places if path.is_file()), None)

    def split_note(self, folder: Path) -> str:
        """Return a remark if the split is, or would be, drawn here and is not the published one; else ""."""
        path = self.split_file(folder)
        if path is None:
            drawn = "train, val and test will be drawn here, unlike the published ones"
            return f"no {self.split}: {drawn}" if self.split and self.read is not None else ""
        how = drawn_with(path)
        return f"{path} was drawn here (seed {how.get('seed')}), unlike the published split" if how else ""

    def listing(self, folder: Path, keep: bool = True, seed: int = -1) -> Listing:
        """Return the rows of the split file, or of the annotations.

        Args:
            folder: the data set's folder.
            keep: whether a split that is drawn here is written to a split file.
            seed: what the caller has seeded ``random`` with, to be noted in that file.

        Raises:
            FileNotFoundError: if neither is there.
            ValueError: if what is there is malformed.
        """
        path = self.split_file(folder)
        if path is not None or self.read is None:
            return read_listing(path or folder / self.split)
        listing = self.read(folder, folder / self.images)
        if self.split and keep:
            path = split_place(folder, self.split)
            content = {**listing._asdict(), "drawn": {"seed": seed}}  # CoOp reads the other three
            if not write_json(content, path, over=False):  # a run beside this one, of another seed, was quicker
                return read_listing(path)
            log.warning(
                "%s: %s has no %s; a split was drawn and saved to %s (published results are on the published split)",
                self.name, folder, self.split, path,
            )  # fmt: skip
        return listing


class Source(NamedTuple):
    """A data set as found on disk.

    Args:
        split: all of it.
        folder: where it lies.
        images: folder of images.
        file: what the split was read from; None if that is folders or annotations.
        test_only: a variant to test on.
        draws: where under ``split_fewshot`` its draws go.
    """

    split: Split
    folder: Path
    images: Path
    file: Path | None = None
    test_only: bool = False
    draws: str = ""


class ListedDataset(DatasetBase):
    """Base of all our data sets: a source, then few shots, then base or new classes."""

    @classmethod
    def source(cls, cfg: Any, keep: bool = True) -> Source:
        """Return what ``cfg.DATASET`` names; ``keep`` allows it to write what it draws."""
        raise NotImplementedError

    def __init__(self, cfg: Any) -> None:
        check_subsample(cfg.DATASET.SUBSAMPLE_CLASSES)
        source = self.source(cfg)
        self.dataset_dir, self.image_dir = str(source.folder), str(source.images)
        self.split_path = str(source.file or "")  # CoOp's word for it
        self.split_drawn = drawn_with(source.file)
        split = reduce(source, cfg)
        super().__init__(train_x=split.train, val=split.val or None, test=split.test)


def reduce(source: Source, cfg: Any, keep: bool = True) -> Split:
    """Return the split of ``DATASET.NUM_SHOTS`` images a class and ``DATASET.SUBSAMPLE_CLASSES``.

    Args:
        source: the whole data set.
        cfg: config; reads also ``SEED``, the name of the draw.
        keep: whether a draw is written.
    """
    split = source.split
    if source.test_only:
        return Split(split.test, [], split.test)
    if cfg.DATASET.NUM_SHOTS >= 1:
        # drawn over all classes, so that base and new runs share one draw
        folder, pickles = cache_folder(source.folder) / source.draws, source.folder / "split_fewshot"
        split = few_shot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED, source.images, folder, _draw, pickles, keep)
    return subsample_classes(split, cfg.DATASET.SUBSAMPLE_CLASSES)


def _draw(items: list[Datum], shots: int) -> list[Datum]:
    return list(DatasetBase(train_x=items).generate_fewshot_dataset(items, num_shots=shots))


class DescribedDataset(ListedDataset):
    """Base of the registered classes; ``description`` says all."""

    description: Description

    @classmethod
    def source(cls, cfg: Any, keep: bool = True) -> Source:
        """Read the data set under ``DATASET.ROOT``."""
        about = cls.description
        check_keys(about.name, cfg.DATASET)
        root = data_root(cfg.DATASET.ROOT)
        if about.prepare is not None and keep:
            about.prepare(root)
        folder = root / about.folder
        images = folder / about.images
        advice = f"`python -m datasets check {about.name} --root {root}` says more" if about.card else ""
        if not folder.is_dir():
            raise FileNotFoundError(_with(f"data set {about.name}: no folder {folder}; DATASET.ROOT is {root}", advice))
        try:
            where = about.split or f"data set {about.name}"
            split = make_split(checked_listing(about.listing(folder, keep, cfg.SEED), where), images, where)
        except FileNotFoundError as error:
            raise FileNotFoundError(_with(str(error), advice)) from None
        except ValueError as error:
            raise ValueError(_with(str(error), advice)) from None
        return Source(split, folder, images, about.split_file(folder), about.test_only)


def _with(words: str, advice: str) -> str:
    return f"{words}; {advice}" if advice else words


def register(description: Description) -> type[DescribedDataset]:
    """Make the class of a description, put it into ``DATASET_REGISTRY`` under its name, and return it."""
    about = f"{description.name}, read from {description.folder}/{description.split or description.images}."
    made = type(description.name, (DescribedDataset,), {"description": description, "__doc__": about})
    DATASET_REGISTRY.register()(made)
    return made
