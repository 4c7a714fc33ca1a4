"""Images with labels, and data sets made of them."""

from __future__ import annotations

import logging
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Callable

logger = logging.getLogger(__name__)


class Datum:
    """One image: where it is, and what is known of it.

    Attribute names are part of the interface: ``split_fewshot/*.pkl`` files hold pickled objects of this class.

    Args:
        impath: path of an existing image file.
        label: class number, from 0.
        domain: domain number, from 0.
        classname: name of the class.

    Raises:
        TypeError: the path is no text.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not isinstance(impath, str):
            raise TypeError(f"impath must be a str, but got {type(impath).__name__}")
        if not os.path.isfile(impath):
            raise FileNotFoundError(f'No image file at "{impath}" (class {classname or label})')
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        """Path of the image file."""
        return self._impath

    @property
    def label(self) -> int:
        """Class number."""
        return self._label

    @property
    def domain(self) -> int:
        """Domain number."""
        return self._domain

    @property
    def classname(self) -> str:
        """Name of the class."""
        return self._classname


Source = Sequence[Datum]


class DatasetBase:
    """Training, validation and test images of a data set.

    Args:
        train_x: labelled training images; class names and their number come from these.
        train_u: unlabelled training images (optional).
        val: validation images (optional).
        test: test images.

    Raises:
        ValueError: ``train_x`` is empty.
    """

    dataset_dir: str = ""
    domains: list[str] = []

    def __init__(
        self,
        train_x: Source | None = None,
        train_u: Source | None = None,
        val: Source | None = None,
        test: Source | None = None,
    ) -> None:
        if not train_x:
            raise ValueError(f"{type(self).__name__} has no training images: its train_x split is empty")
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @property
    def train_x(self) -> Source:
        """Labelled training images."""
        return self._train_x

    @property
    def train_u(self) -> Source | None:
        """Unlabelled training images."""
        return self._train_u

    @property
    def val(self) -> Source | None:
        """Validation images."""
        return self._val

    @property
    def test(self) -> Source | None:
        """Test images."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """Label -> class name."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names in the order of their labels."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """Highest label + 1."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Source) -> int:
        """Return the highest label + 1."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Source) -> tuple[dict[int, str], list[str]]:
        """Return label -> class name, and the names in the order of labels; a label's first name counts."""
        names: dict[int, str] = {}
        for item in data_source:
            names.setdefault(item.label, item.classname)
        return names, [names[label] for label in sorted(names)]

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Raise ValueError if either list is empty or names a domain that is not in ``self.domains``."""
        for kind, names in (("source_domains", source_domains), ("target_domains", target_domains)):
            if not names:
                raise ValueError(f"{kind} (list) is empty: it needs at least one of {self.domains}")
            self.is_input_domain_valid(names)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Raise ValueError if a name is not in ``self.domains``."""
        for name in input_domains:
            if name not in self.domains:
                raise ValueError(f"Input domain must belong to {self.domains}, but got [{name}]")

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Refuse: nothing is downloaded or unpacked unseen. Says what to fetch and where to put it.

        Raises:
            FileNotFoundError: always.
        """
        folder = os.path.dirname(dst)
        raise FileNotFoundError(f"{type(self).__name__} is not there: fetch {url} by hand and unpack it in {folder}")

    def generate_fewshot_dataset(self, *data_sources: Source, num_shots: int = -1, repeat: bool = False) -> Any:
        """Draw a few images of every class, with Python's global random stream.

        Classes are drawn in the order in which they first appear; a class with fewer images gives all it has.

        Args:
            data_sources: lists of images, drawn one after the other.
            num_shots: images a class; below 1 the sources are returned as they are.
            repeat: fill up small classes by drawing with replacement.

        Returns:
            One list for a single source, else one for each.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        logger.info(f"Creating a {num_shots}-shot dataset")

        def draw(items: list[Datum]) -> list[Datum]:
            if len(items) >= num_shots:
                return random.sample(items, num_shots)
            return random.choices(items, k=num_shots) if repeat else items

        drawn = [
            [item for items in self.split_dataset_by_label(source).values() for item in draw(items)]
            for source in data_sources
        ]
        return drawn[0] if len(drawn) == 1 else drawn

    def split_dataset_by_label(self, data_source: Source) -> dict[int, list[Datum]]:
        """Return label -> images, labels in the order of first appearance."""
        return _group(data_source, lambda item: item.label)

    def split_dataset_by_domain(self, data_source: Source) -> dict[int, list[Datum]]:
        """Return domain -> images, domains in the order of first appearance."""
        return _group(data_source, lambda item: item.domain)


def _group(data_source: Source, key: Callable[[Datum], int]) -> dict[int, list[Datum]]:
    groups: dict[int, list[Datum]] = defaultdict(list)
    for item in data_source:
        groups[key(item)].append(item)
    return groups
