"""Helpers for the layers and parameters of a model."""

from collections.abc import Iterable
from typing import Any

import torch.nn as nn

from .checkpoint import (  # noqa: F401  plugins import them from here
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
)
from .registry import check_availability, nearest


def open_all_layers(model: nn.Module) -> None:
    """Set a model to training mode and make every parameter trainable."""
    model.train()
    model.requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | list[str]) -> None:
    """Make the named children of a model trainable, and freeze the others (evaluation mode, no gradients).

    Raises:
        ValueError: the model has no such attribute.
    """
    names = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    for name in names:
        if not hasattr(model, name):
            children = [child for child, _ in model.named_children()]
            hint = f" (do you mean {nearest(name, children)}?)" if children else ""
            raise ValueError(f"{name} is not a layer of the model: {children}{hint}")
    for name, child in model.named_children():
        child.train(name in names)
        child.requires_grad_(name in names)


def count_num_param(model: nn.Module | None = None, params: Iterable[Any] | None = None) -> int:
    """Return the number of elements in a model, in parameters, or in the parameter groups of an optimizer."""
    if model is None and params is None:
        raise ValueError("model and params must provide at least one.")
    entries = params if model is None else model.parameters()
    groups = [entry["params"] if isinstance(entry, dict) else [entry] for entry in entries]
    return sum(p.numel() for group in groups for p in group)


_INITS = {
    "normal": lambda weight, gain: nn.init.normal_(weight, 0.0, gain),
    "xavier": lambda weight, gain: nn.init.xavier_normal_(weight, gain=gain),
    "kaiming": lambda weight, gain: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
    "orthogonal": lambda weight, gain: nn.init.orthogonal_(weight, gain=gain),
}


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise convolutions and linear layers at random; batch and instance norms become the identity.

    ``init_type`` is normal, xavier, kaiming or orthogonal; ``gain`` is the standard deviation of normal weights.

    Raises:
        ValueError: unknown ``init_type``.
    """
    check_availability(init_type, list(_INITS))
    for module in model.modules():
        kind = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if "Norm" in kind and ("Batch" in kind or "Instance" in kind) and weight is not None:
            nn.init.ones_(weight)
        elif ("Conv" in kind or "Linear" in kind) and weight is not None:
            _INITS[init_type](weight, gain)
        else:
            continue
        if bias is not None:
            nn.init.zeros_(bias)
