"""Data sets as short descriptions, made into classes of the registry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from .splits import Split, cache_folder, check_subsample, few_shot, read_split, subsample_classes

DEFAULT_TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class Description:
    """A data set with a split file.

    Args:
        name: registry name, ``DATASET.NAME``.
        folder: the data set's folder under ``DATASET.ROOT``.
        split: the split file in that folder.
        images: folder of images in that folder ("" for itself).
        template: sentence around a class name.
        test_only: a variant to test on, as ImageNet's are: test also stands in for train, there is no val, and
            NUM_SHOTS and SUBSAMPLE_CLASSES are not looked at.
        prepare: called with the root before reading, for sets that can be made on the spot.
    """

    name: str
    folder: str
    split: str
    images: str = "images"
    template: str = DEFAULT_TEMPLATE
    test_only: bool = False
    prepare: Callable[[Path], Any] | None = None


class DescribedDataset(DatasetBase):
    """Base of the registered classes; ``description`` says all."""

    description: Description

    def __init__(self, cfg: Any) -> None:
        about = self.description
        root = data_root(cfg.DATASET.ROOT)
        check_subsample(cfg.DATASET.SUBSAMPLE_CLASSES)
        if about.prepare is not None:
            about.prepare(root)
        self.dataset_dir = str(root / about.folder)
        self.image_dir = str(root / about.folder / about.images)
        self.template = about.template
        if not os.path.isdir(self.dataset_dir):
            raise FileNotFoundError(f"data set {about.name}: no folder {self.dataset_dir}; DATASET.ROOT is {root}")
        split = read_split(root / about.folder / about.split, self.image_dir)
        if about.test_only:
            split = Split(split.test, [], split.test)
        else:
            if cfg.DATASET.NUM_SHOTS >= 1:
                # drawn over all classes, so that base and new runs share one draw
                split = few_shot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED, self.image_dir,
                                 cache_folder(self.dataset_dir), self._draw)  # fmt: skip
            split = subsample_classes(split, cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=split.train, val=split.val or None, test=split.test)

    def _draw(self, items: list, shots: int) -> list:
        return list(self.generate_fewshot_dataset(items, num_shots=shots))


def data_root(root: str) -> Path:
    """Return ``DATASET.ROOT`` as an absolute path.

    Raises:
        ValueError: if it is empty.
        FileNotFoundError: if there is no such folder.
    """
    if not root:
        raise ValueError("DATASET.ROOT is empty; say where the data sets are with --root FOLDER")
    path = Path(os.path.abspath(os.path.expanduser(root)))
    if not path.is_dir():
        raise FileNotFoundError(f"DATASET.ROOT is {root!r}, but there is no folder {path}")
    return path


def register(description: Description) -> type[DescribedDataset]:
    """Make the class of a description, put it into ``DATASET_REGISTRY`` under its name, and return it."""
    about = f"{description.name}, read from {description.folder}/{description.split}."
    made = type(description.name, (DescribedDataset,), {"description": description, "__doc__": about})
    DATASET_REGISTRY.register()(made)
    return made
