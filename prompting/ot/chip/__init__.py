"""Which engine solves a batch of problems: torch, or the Triton kernel of this folder where it can.

The one place of the head that needs more than torch; ``kernel.py`` and Triton are imported when first used.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

ENGINES = ("auto", "torch", "triton")
# Entries of a problem, its sides rounded up to powers of two, that registers hold through all iterations.
CHIP_ENTRIES = 2**14


def use_chip(engine: str, cost: Tensor, *, domain: str, stop: str, recording: bool) -> bool:
    """Whether the Triton kernel is to solve ``cost`` (..., J, L); the arguments are those of ``sinkhorn``.

    Raises:
        ValueError: ``engine`` is ``triton`` and something stands against it.
    """
    if engine == "torch" or (engine == "auto" and not cost.is_cuda):
        return False
    against = _against(cost, domain, stop, recording)
    if engine == "triton" and against:
        raise ValueError(f"engine is 'triton' but {against}; allowed: engine 'auto' or 'torch'")
    return not against


def rounded(size: int) -> int:
    """The least power of two that is at least ``size``."""
    return 1 << (size - 1).bit_length()


def _against(cost: Tensor, domain: str, stop: str, recording: bool) -> str:
    """What stands against the Triton kernel, empty for nothing."""
    if stop != "marginal":
        return f"stop is {stop!r}: its groups are larger than a chip's registers"
    if domain == "log":
        return "domain is 'log': the kernel works with exp(-cost / lam)"
    if recording:
        return "the iterations are recorded (gradient 'unrolled')"
    if cost.dtype == torch.float64:
        return "cost is float64"
    entries = rounded(cost.shape[-2]) * rounded(cost.shape[-1])
    if entries > CHIP_ENTRIES:
        return f"a problem takes {entries} entries of at most {CHIP_ENTRIES}"
    if not cost.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"cost is on {cost.device}, not on a CUDA device"
    return "" if importlib.util.find_spec("triton") else "the package triton is not installed"
