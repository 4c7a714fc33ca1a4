"""Search for NaN and infinity in tensors."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings and sequences with their dotted names."""
    if isinstance(value, (Mapping, list, tuple)):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def named_tensors(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in nested mappings and sequences with their dotted names; shared containers are read once."""
    seen, todo = set[int](), [("", value)]
    while todo:
        name, part = todo.pop()
        if isinstance(part, torch.Tensor):
            yield name, part
        elif isinstance(part, (Mapping, list, tuple)) and id(part) not in seen:
            seen.add(id(part))
            parts = list(part.items() if isinstance(part, Mapping) else enumerate(part))
            todo += [(f"{name}.{key}" if name else str(key), one) for key, one in reversed(parts)]


@torch.no_grad()
def first_non_finite(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return what is wrong with the first tensor that holds NaN or infinity, "" for none (one host sync)."""
    tensors = [(name, tensor.detach()) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    if not tensors:
        return ""
    device = tensors[0][1].device
    peaks = torch.stack([tensor.abs().amax().to(device, torch.float64) for _, tensor in tensors])
    for (name, tensor), finite in zip(tensors, peaks.isfinite().tolist()):
        if not finite:
            if tensor.numel() == 1:
                return f"{name} is {tensor.item()}"
            return f"{name} holds {int((~tensor.isfinite()).sum()):,} NaN or infinite of {tensor.numel():,} values"
    return ""
