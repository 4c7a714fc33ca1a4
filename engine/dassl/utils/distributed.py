"""Several processes that train one model together, started by torchrun: who does what, and what they tell each other.

Every process runs the same program with the same random streams, loads the same batches of training images, and takes
its share of each: so the images and their augmentations are those of one process, whatever the sampler and the number
of workers. (Loading is thus not divided among processes. Few-shot sets are small, and their decoded images are kept.)
The gradients of the learned tensors, which are few, are added up after each backward pass. Test batches are dealt out
whole, and only the process that works on a batch loads it. The first process, ``main``, writes all files.

Without torchrun there is one process, which is ``main``, and everything here does nothing.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from .rng import get_rng_state, set_rng_state


def _environment(name: str, alone: int) -> int:
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ.get(name, alone)) if launched else alone


def size() -> int:
    """Return the number of processes."""
    return _environment("WORLD_SIZE", 1)


def rank() -> int:
    """Return this process's number, from 0."""
    return _environment("RANK", 0)


def local_size() -> int:
    """Return the number of processes on this machine."""
    return _environment("LOCAL_WORLD_SIZE", 1)


def is_main() -> bool:
    """Return whether this is the process that writes files."""
    return rank() == 0


def join(use_cuda: bool) -> None:
    """Connect to the other processes, and make this process's GPU the current one.

    Args:
        use_cuda: one GPU a process, where there are any; else CPUs.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    if size() == 1 or dist.is_initialized():
        return
    backend = "gloo"
    if use_cuda and torch.cuda.is_available():
        local, devices = _environment("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= devices:
            raise ValueError(f"torchrun started {local_size()} processes, but {devices} GPUs are visible: one a GPU")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"  # gradients go from GPU to GPU; all else is on the CPU
    dist.init_process_group(backend, timeout=timedelta(hours=1))  # main may be the first to list a large data set
    atexit.register(dist.destroy_process_group)


# ---- what processes tell each other


def from_main(value: Any = None) -> Any:
    """Return main's ``value``; wait for it."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def first_of(text: str) -> str:
    """Return the first text that is not empty, in the order of processes; empty if all are."""
    if size() == 1:
        return text
    found = torch.tensor([float(bool(text))])
    dist.all_reduce(found)
    if not found:
        return ""
    texts: list[Any] = [None] * size()
    dist.all_gather_object(texts, text)
    return next(filter(None, texts))


def largest(number: int) -> int:
    """Return the largest ``number`` of all processes."""
    if size() == 1:
        return number
    box = torch.tensor([number])
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def add_up(tensors: Sequence[torch.Tensor], share: float) -> None:
    """Replace each tensor by the sum over processes of ``share`` times theirs; all have the same shapes everywhere."""
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]) * share
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.detach().copy_(total.view_as(tensor))


def total(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over processes, on its device."""
    if size() == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def mean(summary: Mapping[str, Any], share: float) -> Mapping[str, Any]:
    """Return name -> mean over processes, each weighted by its ``share`` (shares add up to 1)."""
    if size() == 1:
        return summary
    values = torch.tensor([float(value) for value in summary.values()], dtype=torch.float64)
    add_up([values], share)
    return dict(zip(summary, values.tolist()))


@contextmanager
def main_first() -> Iterator[None]:
    """Let main do what follows before the others, who then find the files it wrote; if main fails, they end."""
    if size() > 1 and not is_main() and from_main() == "failed":
        raise SystemExit(1)  # main says why
    try:
        yield
    except BaseException:
        if is_main():
            from_main("failed")
        raise
    if is_main():
        from_main("done")


def same_streams() -> None:
    """Put the random streams of all processes, and of their current GPUs, to where main's are."""
    if size() == 1:
        return
    mine = None
    if is_main():
        gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        mine = ({**get_rng_state(), "cuda": []}, gpu)
    state, gpu = from_main(mine)
    if not is_main():
        set_rng_state(state)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)


# ---- training: a share of each batch


def shares(batches: tuple[Any, ...]) -> tuple[tuple[Any, ...], float]:
    """Return this process's part of one or more batches, and how much of them that is.

    A loss that is a mean over the images of a batch, plus terms that do not depend on them, is then the sum over
    processes of share times loss, also where a batch cannot be divided evenly.

    Raises:
        TypeError: a batch is not a dictionary with ``label``.
        ValueError: a batch has fewer images than there are processes, or one of several is no multiple of them.
    """
    if size() == 1:
        return batches, 1.0
    parts, share = [], 1 / size()
    for batch in batches:
        if not isinstance(batch, Mapping) or "label" not in batch:
            raise TypeError(f"Only batches with 'label' can be shared by processes, but got a {type(batch).__name__}")
        number = len(batch["label"])
        if number < size():
            raise ValueError(f"A training batch of {number} is too small: each of {size()} processes needs an image")
        if number % size() and len(batches) > 1:
            raise ValueError(f"Labelled and unlabelled batches must be multiples of {size()} processes, not {number}")
        rows = slice(number * rank() // size(), number * (rank() + 1) // size())
        parts.append({name: _cut(value, rows) for name, value in batch.items()})
        share = (rows.stop - rows.start) / number
    return tuple(parts), share


def _cut(value: Any, rows: slice) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [view[rows] for view in value]  # views of the same images
    return value[rows]


# ---- evaluation: every so-manieth batch


class OwnBatches(Sampler):
    """Of another sampler's batches, those that this process works on: number ``rank()`` of every ``size()``.

    Args:
        sampler: draws the same everywhere.
        batch_size: images a batch.
    """

    def __init__(self, sampler: Sampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __iter__(self) -> Iterator[int]:
        return (index for i, index in enumerate(self.sampler) if i // self.batch_size % size() == rank())

    def __len__(self) -> int:
        number, step = len(self.sampler), self.batch_size  # type: ignore[arg-type]
        return sum(min(step, number - start) for start in range(rank() * step, number, size() * step))


def in_order(own: Iterable[Any], number: int) -> Iterator[Any]:
    """Yield, on main, what all processes make of their batches, in the order of batches; elsewhere nothing.

    Args:
        own: one value for each of this process's batches (tensors, tuples of tensors, plain values).
        number: how many of them this process has.
    """
    if size() == 1:
        yield from own
        return
    values = iter(own)
    for _ in range(largest(number)):
        everyones: list[Any] | None = [None] * size() if is_main() else None
        dist.gather_object([_on_cpu(value) for _, value in zip(range(1), values)], everyones)
        for found in everyones or ():
            yield from found


def _on_cpu(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_on_cpu, value))
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value
