"""Faster loading that changes nothing: decoded images shared by workers, and workers that live for several epochs."""

import mmap
import os
import random
import shutil
import sys
import threading
from collections.abc import Iterator
from itertools import repeat
from multiprocessing import Value
from types import TracebackType
from typing import Any

import numpy as np
import torch
from dassl.utils import read_image
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

OPEN_FILES = 64  # of a run without workers, about twice as many as seen
SHARED_MEMORY = "/dev/shm"  # where workers put their batches on Linux


def check_workers(workers: int, batches: int, batch_bytes: int) -> None:
    """Check that the system's limits suffice for worker processes; raise the limit of open files if that is allowed.

    Workers that run into these limits end without a reason, or let the run wait for ever. ``workers`` are those of one
    loader, ``batches`` the loader's; a worker prepares two ahead, with tensors of ``batch_bytes``.

    Raises:
        ValueError: a limit is too small.
    """
    if not workers:
        return
    advice = "set DATALOADER.NUM_WORKERS 0, or fewer workers, or raise the limit"
    needed = OPEN_FILES + 3 * (4 * workers + 8)  # three loaders; measured: 4 files a worker and 6 a loader
    try:
        import resource
    except ImportError:  # Windows has no such limit
        pass
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < needed and hard != resource.RLIM_INFINITY:
            found = f"a process may open {hard} files, {workers} workers need about {needed}"
            raise ValueError(f"{found}; {advice} (ulimit -n)")
        if soft < needed and soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    if sys.platform == "linux":
        free = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else 0
        needed = min(2 * workers, batches) * batch_bytes + 2**18  # the rest for locks
        if free < needed:
            found = f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB free, {workers} workers need {needed / 2**20:.1f} MiB"
            raise ValueError(f"{found}; {advice} (docker run --shm-size)")


class SharedBytes:
    """A write-once buffer of ``budget`` bytes for this process and, with ``processes``, its forked children.

    The operating system allocates a page at its first write, so an unused buffer needs no memory. The lock of several
    processes needs /dev/shm.
    """

    def __init__(self, budget: int, processes: bool = True) -> None:
        self.data = memoryview(mmap.mmap(-1, budget))  # not in /dev/shm, which is small in many containers
        lock = True if processes else threading.RLock()
        self.used = Value("q", 0, lock=lock)  # bytes in use, and the lock of all caches


class ImageCache:
    """Decoded images of a split of ``number`` images, added at first use while the buffer has space.

    The whole decoded RGB image is stored, before any transform, so that random transforms differ each time.
    Only forked processes share the buffer; in a pickled copy (spawned workers) the cache becomes None.
    """

    def __init__(self, number: int, memory: SharedBytes) -> None:
        self._memory = memory
        table = mmap.mmap(-1, max(number, 1) * 3 * 8)
        self._table = np.frombuffer(table, np.int64).reshape(-1, 3)  # offset, height, width; height 0: not stored

    def __reduce__(self) -> Any:
        return type(None), ()

    def read(self, index: int, path: str, turn: bool = False) -> Image.Image:
        """Return image ``index`` of the split, from its file if need be; ``turn`` and errors are ``read_image``'s."""
        data, used = self._memory.data, self._memory.used
        with used.get_lock():
            start, height, width = self._table[index].tolist()
        if height:
            return Image.frombytes("RGB", (width, height), data[start : start + 3 * height * width])
        image = read_image(path, turn)
        pixels = image.tobytes()
        with used.get_lock():
            start, end = used.value, used.value + len(pixels)
            if not self._table[index, 1] and end <= len(data):
                data[start:end] = pixels
                self._table[index] = start, image.height, image.width
                used.value = end
        return image


class EpochSampler(Sampler):
    """Pairs the indices of another sampler with their epoch: (number of the epoch, seed of its workers)."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.epoch = (0, 0)

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int]]]:
        return zip(self.sampler, repeat(self.epoch))

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


class PersistentLoader(DataLoader):
    """torch's loader with persistent workers that are reseeded in each epoch.

    torch seeds workers only when it starts them. Here each epoch draws the seed at the point of the global random
    stream where new workers would draw it, and sends it with the indices. ``dataset`` calls :func:`seed_worker` when
    the epoch of its indices changes; ``num_workers`` is 1 or more.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, **options: Any) -> None:
        # with a separate generator, torch does not draw a second seed from the global random stream
        options.update(persistent_workers=True, generator=torch.Generator())
        super().__init__(dataset, sampler=EpochSampler(sampler), **options)

    def __iter__(self) -> Any:
        number, seed = self.sampler.epoch[0] + 1, torch.empty((), dtype=torch.int64).random_().item()
        self.sampler.epoch = (number, seed)
        return super().__iter__()


def end_quietly(worker: int) -> None:
    """Print no broken-pipe error of a data worker, whose sending thread meets one if the run is interrupted."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def seed_worker(seed: int) -> None:
    """Seed the random generators of this worker as torch does when it starts one with the base ``seed``."""
    worker = get_worker_info().id
    random.seed(seed + worker)
    torch.manual_seed(seed + worker)
    words = np.random.SeedSequence([worker, seed & 0xFFFFFFFF, seed >> 32, 0]).generate_state(4)
    np.random.seed(words.tolist())
