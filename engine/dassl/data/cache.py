"""A cache of decoded images in memory that worker processes share."""

from __future__ import annotations

import mmap
from multiprocessing import Lock
from typing import Any

import numpy as np
from dassl.utils import read_image
from PIL import Image


class SharedBytes:
    """A write-once buffer shared by this process and its forked children.

    The operating system allocates a page at its first write, so an unused buffer needs no memory.

    Args:
        budget: size in bytes, at least 1.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.lock = Lock()
        self.data = memoryview(mmap.mmap(-1, budget))  # not in /dev/shm, which is small in many containers
        self._used = np.frombuffer(mmap.mmap(-1, 8), np.int64)

    def allocate(self, size: int) -> int | None:
        """Return the offset of ``size`` free bytes, or None if the buffer is full. The caller holds the lock."""
        start = int(self._used[0])
        if start + size > self.budget:
            return None
        self._used[0] = start + size
        return start


class ImageCache:
    """Decoded images of one split, added at first use while the buffer has space.

    The whole decoded RGB image is stored, before any transform, so that random transforms differ each time.
    Only forked processes share the buffer; in a pickled copy (spawned workers) the cache becomes None.

    Args:
        number: images in the split.
        memory: buffer of the pixels.
    """

    def __init__(self, number: int, memory: SharedBytes) -> None:
        self._memory = memory
        table = mmap.mmap(-1, max(number, 1) * 3 * 8)
        self._table = np.frombuffer(table, np.int64).reshape(-1, 3)  # offset, height, width; height 0: not stored

    def __reduce__(self) -> Any:
        return type(None), ()

    def __len__(self) -> int:
        return int((self._table[:, 1] > 0).sum())

    def read(self, index: int, path: str) -> Image.Image:
        """Return image ``index`` of the split, whose file is ``path``.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not an image, or damaged.
        """
        with self._memory.lock:
            start, height, width = self._table[index].tolist()
        if height:
            return Image.frombytes("RGB", (width, height), self._memory.data[start : start + 3 * height * width])
        image = read_image(path)
        pixels = image.tobytes()
        with self._memory.lock:
            place = None if self._table[index, 1] else self._memory.allocate(len(pixels))
            if place is not None:
                self._memory.data[place : place + len(pixels)] = pixels
                self._table[index] = place, image.height, image.width
        return image
