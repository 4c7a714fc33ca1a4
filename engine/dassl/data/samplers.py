"""Samplers by name. They draw a whole epoch at once, from the random streams that Dassl's samplers use."""

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from dassl.utils import check_availability
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from yacs.config import CfgNode

from .datasets.base_dataset import Datum, group


class _EpochSampler(Sampler):
    """Draws whole epochs with ``_draw``; as in Dassl, a first one is drawn on construction, for ``length``."""

    def __init__(self, data_source: Sequence[Datum], batch_size: int) -> None:
        self.data_source, self.batch_size = data_source, batch_size

    def __iter__(self) -> Iterator[int]:
        return iter(self._draw())

    def __len__(self) -> int:
        return self.length


class RandomDomainSampler(_EpochSampler):
    """Batches of N random domains with equally many images of each; ends when a domain has too few images left.

    N is ``n_domain``, or the number of domains if that is below 1.

    Raises:
        ValueError: N does not divide the batch, there are fewer than N domains, or a domain has too few images.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_domain: int | None = None) -> None:
        super().__init__(data_source, batch_size)
        self.domain_dict = group(range(len(data_source)), lambda i: data_source[i].domain)
        self.domains = list(self.domain_dict)
        self.n_domain = n_domain if n_domain and n_domain > 0 else len(self.domains)
        if self.n_domain > len(self.domains) or batch_size % self.n_domain:
            raise ValueError(
                f"A batch of {batch_size} cannot be made of {self.n_domain} domains in equal parts "
                f"(the data has {len(self.domains)})"
            )
        self.n_img_per_domain = batch_size // self.n_domain
        scarce = min(len(indices) for indices in self.domain_dict.values())
        if scarce < self.n_img_per_domain:
            raise ValueError(f"A batch needs {self.n_img_per_domain} images of a domain, but one has only {scarce}")
        self.length = len(self._draw())

    def _choose_domains(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)

    def _draw(self) -> list[int]:
        left = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        order: list[int] = []
        while min(len(indices) for indices in left.values()) >= self.n_img_per_domain:
            for domain in self._choose_domains():
                chosen = random.sample(left[domain], self.n_img_per_domain)
                order += chosen
                taken = set(chosen)
                left[domain] = [i for i in left[domain] if i not in taken]
        return order


class SeqDomainSampler(RandomDomainSampler):
    """Batches with equally many random images of every domain, domains in sorted order."""

    def _choose_domains(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(_EpochSampler):
    """Batches of random classes with N = ``n_ins`` images of each; ends when too few classes have N images left.

    A class with fewer than N images repeats some. The number of batches depends on the draw: the length is that of a
    first draw, an estimate.

    Raises:
        ValueError: the batch is smaller than N, or needs more classes than there are.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_ins: int) -> None:
        if batch_size < n_ins:
            raise ValueError(f"batch_size={batch_size} must be no less than n_ins={n_ins}")
        super().__init__(data_source, batch_size)
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic = group(range(len(data_source)), lambda i: data_source[i].label)
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise ValueError(
                f"A batch of {batch_size} with {n_ins} images a class needs {self.ncls_per_batch} classes, "
                f"but the data has {len(self.labels)}"
            )
        self.length = len(self._draw())

    def _groups(self, label: int) -> list[list[int]]:
        indices = list(self.index_dic[label])
        if len(indices) < self.n_ins:
            indices = np.random.choice(indices, size=self.n_ins, replace=True).tolist()
        random.shuffle(indices)
        whole = len(indices) - len(indices) % self.n_ins
        return [indices[i : i + self.n_ins] for i in range(0, whole, self.n_ins)]

    def _draw(self) -> list[int]:
        groups = {label: self._groups(label) for label in self.labels}
        available = list(self.labels)
        order: list[int] = []
        while len(available) >= self.ncls_per_batch:
            for label in random.sample(available, self.ncls_per_batch):
                order += groups[label].pop(0)
                if not groups[label]:
                    available.remove(label)
        return order


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "RandomSampler": lambda source, batch, n_domain, n_ins: RandomSampler(source),
    "SequentialSampler": lambda source, batch, n_domain, n_ins: SequentialSampler(source),
    "RandomDomainSampler": lambda source, batch, n_domain, n_ins: RandomDomainSampler(source, batch, n_domain),
    "SeqDomainSampler": lambda source, batch, n_domain, n_ins: SeqDomainSampler(source, batch),
    "RandomClassSampler": lambda source, batch, n_domain, n_ins: RandomClassSampler(source, batch, n_ins),
}


def build_sampler(
    sampler_type: str,
    cfg: CfgNode | None = None,
    data_source: Sequence[Datum] = (),
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """Return the sampler ``sampler_type``, one of ``SAMPLERS``, of at least one image.

    ``cfg`` is not used; it is part of Dassl's signature. ``n_domain`` is for RandomDomainSampler, ``n_ins`` for
    RandomClassSampler.

    Raises:
        ValueError: unknown name, or the data does not suffice for the settings.
    """
    check_availability(sampler_type, list(SAMPLERS))
    return SAMPLERS[sampler_type](data_source, batch_size, n_domain, n_ins)
