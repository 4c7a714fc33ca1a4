"""What autograd keeps for the backward pass, counted as it is packed."""

from typing import Any, Callable

import torch
from torch import Tensor, nn


def saved_bytes(run: Callable[[], Any], *frozen: nn.Module) -> int:
    """Bytes of the distinct storages that the graph of ``run()`` keeps, weights of the frozen modules left out."""
    weights = {p.untyped_storage().data_ptr() for module in frozen for p in module.parameters()}
    kept: dict[int, int] = {}
    held: list[Any] = []  # no address is used twice while all are held

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held.append(run())
    return sum(kept.values())
