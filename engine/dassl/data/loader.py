"""A loader with persistent workers that draws the same random numbers as one with new workers in each epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info


class EpochIndex(int):
    """An index with the epoch in which it was drawn: (number of the epoch, seed of its workers)."""

    epoch: tuple[int, int]


class EpochSampler(Sampler):
    """Adds the epoch to the indices of another sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.epoch = (0, 0)

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        for i in self.sampler:
            index = EpochIndex(i)
            index.epoch = epoch
            yield index

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


class PersistentLoader(DataLoader):
    """torch's loader with persistent workers that are reseeded in each epoch.

    torch seeds workers only when it starts them. Here each epoch draws the seed at the point of the global random
    stream where new workers would draw it, and sends it with the indices (see :func:`seed_worker`).

    Args:
        dataset: calls :func:`seed_worker` when the ``epoch`` of its indices changes.
        sampler: indices.
        options: arguments of torch's loader; ``num_workers`` is 1 or more.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, **options: Any) -> None:
        # with a separate generator, torch does not draw a second seed from the global random stream
        generator = torch.Generator()
        sampler = EpochSampler(sampler)
        super().__init__(dataset, sampler=sampler, persistent_workers=True, generator=generator, **options)

    def __iter__(self) -> Any:
        number, seed = self.sampler.epoch[0] + 1, torch.empty((), dtype=torch.int64).random_().item()
        self.sampler.epoch = (number, seed)
        return super().__iter__()


def seed_worker(seed: int) -> None:
    """Seed the random generators of this worker as torch does when it starts one with the base ``seed``."""
    worker = get_worker_info().id
    random.seed(seed + worker)
    torch.manual_seed(seed + worker)
    words = np.random.SeedSequence([worker, seed & 0xFFFFFFFF, seed >> 32, 0]).generate_state(4)
    np.random.seed(words.tolist())
