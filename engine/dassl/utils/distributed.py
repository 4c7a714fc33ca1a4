"""Several processes, started by torchrun, that train one model together.

Every process runs the same program with the same random streams and loads the same training batches, so that images and
augmentations are those of one process for every sampler and number of workers; it works on its share of each batch.
(Loading is not divided: few-shot sets are small and their decoded images are cached.) The gradients of the few learned
tensors are summed after each backward pass. Test batches are distributed whole, each loaded by one process. The main
process is rank 0; it writes all files.

Without torchrun there is one process, the main one, and these functions do nothing.
"""

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from .tools import get_rng_state, set_rng_state


def _environment(name: str, default: int) -> int:
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ.get(name, default)) if launched else default


def size() -> int:
    """Return the number of processes."""
    return _environment("WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this process, from 0."""
    return _environment("RANK", 0)


def local_size() -> int:
    """Return the number of processes on this machine."""
    return _environment("LOCAL_WORLD_SIZE", 1)


def is_main() -> bool:
    """Return whether this is the main process, which writes files."""
    return rank() == 0


def init(use_cuda: bool) -> None:
    """Initialise the process group and, with ``use_cuda`` where there are GPUs, select this process's GPU.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    if size() == 1 or dist.is_initialized():
        return
    backend = "gloo"
    if use_cuda and torch.cuda.is_available():
        local, devices = _environment("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= devices:
            raise ValueError(f"torchrun started {local_size()} processes, but {devices} GPUs are visible; use one each")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"  # gradients are reduced on the GPUs, everything else on the CPU
    dist.init_process_group(backend, timeout=timedelta(hours=1))  # the main process may first list a large data set
    atexit.register(dist.destroy_process_group)


# ---- communication


def broadcast(value: Any = None) -> Any:
    """Return the main process's ``value``, and wait for it."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def first_message(text: str) -> str:
    """Return the first non-empty text in the order of processes, or "" if all are empty."""
    if size() == 1:
        return text
    texts: list[Any] = [None] * size()
    dist.all_gather_object(texts, text)
    return next(filter(None, texts), "")


def weighted_sum_(tensors: Sequence[torch.Tensor], weight: float) -> None:
    """Replace each tensor by its sum over processes, weighted by each process's ``weight``; shapes are the same."""
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]) * weight
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.detach().copy_(total.view_as(tensor))


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over processes."""
    if size() == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def weighted_mean(summary: Mapping[str, Any] | None, weight: float) -> Mapping[str, Any] | None:
    """Return name -> mean over processes, or None for None; the weights of all processes sum to 1."""
    if size() == 1 or not summary:
        return summary
    values = torch.tensor([float(value) for value in summary.values()], dtype=torch.float64)
    return dict(zip(summary, all_reduce_sum(values * weight).tolist()))


@contextmanager
def main_first() -> Iterator[None]:
    """Run a block in the main process first, so that the others find its files; if it fails, the others exit."""
    if size() > 1 and not is_main() and broadcast() == "failed":
        raise SystemExit(1)  # the main process reports the error
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        if is_main():
            broadcast(outcome)


def sync_rng() -> None:
    """Set the random generators of all processes, and of their current GPUs, to the main process's states."""
    if size() == 1:
        return
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    state, gpu = broadcast(({**get_rng_state(), "cuda": []}, gpu))
    set_rng_state(state)
    if gpu is not None:
        torch.cuda.set_rng_state(gpu)


# ---- training: a share of each batch


def take_share(batches: tuple[Any, ...]) -> tuple[tuple[Any, ...], float]:
    """Return this process's rows of one or more batches, and their fraction of the batch.

    For a loss that is a mean over the images of a batch plus terms that do not depend on them, the value on the whole
    batch is the sum over processes of fraction times loss, also for uneven shares.

    Raises:
        TypeError: a batch is not a dictionary with ``label``.
        ValueError: a batch has fewer images than processes, or one of several is not a multiple of their number.
    """
    if size() == 1:
        return batches, 1.0
    parts, fraction = [], 1 / size()
    for batch in batches:
        if not isinstance(batch, Mapping) or "label" not in batch:
            raise TypeError(f"Only batches with 'label' can be shared by processes, but got a {type(batch).__name__}")
        number = len(batch["label"])
        if number < size():
            raise ValueError(f"A training batch of {number} is too small: each of {size()} processes needs an image")
        if number % size() and len(batches) > 1:
            raise ValueError(f"Labelled and unlabelled batches must be multiples of {size()} processes, not {number}")
        rows = slice(number * rank() // size(), number * (rank() + 1) // size())
        parts.append({name: _take(value, rows) for name, value in batch.items()})
        fraction = (rows.stop - rows.start) / number
    return tuple(parts), fraction


def _take(value: Any, rows: slice) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [view[rows] for view in value]  # views of the same images
    return value[rows]


# ---- evaluation: every world_size-th batch


class BatchShare(Sampler):
    """The batches ``rank()``, ``rank() + size()``, ... of a sampler that draws the same indices in every process."""

    def __init__(self, sampler: Sampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __iter__(self) -> Iterator[int]:
        return (index for i, index in enumerate(self.sampler) if i // self.batch_size % size() == rank())

    def __len__(self) -> int:
        return sum(i // self.batch_size % size() == rank() for i in range(len(self.sampler)))  # type: ignore[arg-type]


def gather_in_order(values: Iterable[Any], number: int) -> Iterator[Any]:
    """Yield the values of all processes' batches in the order of batches in the main process; in others nothing.

    ``values`` has one value (tensors, tuples of tensors, plain values) for each of this process's ``number`` batches.
    """
    if size() == 1:
        yield from values
        return
    most = torch.tensor([number])
    dist.all_reduce(most, dist.ReduceOp.MAX)
    values = iter(values)
    for _ in range(int(most)):
        gathered: list[Any] | None = [None] * size() if is_main() else None
        dist.gather_object([_on_cpu(value) for value in islice(values, 1)], gathered)
        for found in gathered or ():
            yield from found


def _on_cpu(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(map(_on_cpu, value))
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value
