"""Images with labels, and data sets of them."""

import logging
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Datum:
    """One image: path of an existing file, class number and domain number (from 0), name of the class.

    The private names are part of the interface: ``split_fewshot/*.pkl`` files hold pickled objects of this class.

    Raises:
        TypeError: ``impath`` is not a string.
        FileNotFoundError: the file does not exist.
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

    impath = property(attrgetter("_impath"), doc="Path of the image file.")
    label = property(attrgetter("_label"), doc="Class number.")
    domain = property(attrgetter("_domain"), doc="Domain number.")
    classname = property(attrgetter("_classname"), doc="Name of the class.")


Source = Sequence[Datum]


class DatasetBase:
    """Training, validation and test images of a data set.

    The labelled training images ``train_x`` define the class names and their number; ``train_u``, unlabelled ones, and
    ``val`` are optional.

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

    train_x = property(attrgetter("_train_x"), doc="Labelled training images.")
    train_u = property(attrgetter("_train_u"), doc="Unlabelled training images, or None.")
    val = property(attrgetter("_val"), doc="Validation images, or None.")
    test = property(attrgetter("_test"), doc="Test images.")
    lab2cname = property(attrgetter("_lab2cname"), doc="Label -> class name.")
    classnames = property(attrgetter("_classnames"), doc="Class names in the order of their labels.")
    num_classes = property(attrgetter("_num_classes"), doc="Highest label + 1.")

    @staticmethod
    def get_num_classes(data_source: Source) -> int:
        """Return the highest label + 1."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Source) -> tuple[dict[int, str], list[str]]:
        """Return label -> class name (of its first image), and the names in the order of labels."""
        names: dict[int, str] = {}
        for item in data_source:
            names.setdefault(item.label, item.classname)
        return names, [names[label] for label in sorted(names)]

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Raise ValueError if a list is empty or names a domain that is not in ``self.domains``."""
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
        """Download nothing; raise FileNotFoundError that names the URL and the folder."""
        folder = os.path.dirname(dst)
        raise FileNotFoundError(f"{type(self).__name__} is not there: fetch {url} by hand and unpack it in {folder}")

    def generate_fewshot_dataset(self, *data_sources: Source, num_shots: int = -1, repeat: bool = False) -> Any:
        """Draw ``num_shots`` images of every class of each source from Python's global random generator.

        Classes are drawn in the order of first appearance. All images of a smaller class are taken; ``repeat`` draws
        them with replacement. ``num_shots`` below 1 returns the sources unchanged.

        Returns:
            One list for a single source, else one per source.
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
        return group(data_source, attrgetter("label"))

    def split_dataset_by_domain(self, data_source: Source) -> dict[int, list[Datum]]:
        """Return domain -> images, domains in the order of first appearance."""
        return group(data_source, attrgetter("domain"))


def group(items: Iterable[Item], key: Callable[[Item], int]) -> dict[int, list[Item]]:
    """Return key -> items, keys in the order of first appearance."""
    groups: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
