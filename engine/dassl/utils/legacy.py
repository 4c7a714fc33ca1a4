"""What Dassl's checkpoints hold beside tensors and plain values, as an allow-list of inert stand-ins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class _Stub:
    """Stands for a scheduler or optimizer object in a file of Dassl's: holds its values, does nothing."""


def _stub(module: str, name: str) -> type:
    return type(name, (_Stub,), {"__module__": module, "__qualname__": name})


def _plain_dict(*args: Any) -> dict[Any, Any]:
    return {}


# What it stands for in a file; torch 2.4 looks at the plain name, later ones at the qualified one.
_plain_dict.__module__, _plain_dict.__name__, _plain_dict.__qualname__ = "collections", "defaultdict", "defaultdict"

# Dassl's warm-up schedulers keep the scheduler that follows, and that one its optimizer, as objects in their state.
_LEGACY_CLASSES: list[Any] = [
    *[_stub("torch.optim.lr_scheduler", name) for name in ("StepLR", "MultiStepLR", "CosineAnnealingLR")],
    *[_stub(f"torch.optim.{name.lower()}", name) for name in ("SGD", "Adam", "AdamW", "RMSprop", "RAdam")],
    _stub("dassl.optim.radam", "RAdam"),
    _plain_dict,
    dict,
]


@contextlib.contextmanager
def legacy_classes_allowed() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read those files inside a ``with`` block."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_LEGACY_CLASSES)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
