"""Checks of the inputs of this folder; an error is one line with the value found and the values allowed."""

import difflib
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
"""Whether ``torch.export`` is tracing; always False before torch 2.7, which cannot tell."""


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return "; did you mean <the nearest known word>?", or "" if none is near."""
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(value).lower(), words, n=1, cutoff=0.4)
    return f"; did you mean {words[near[0]]!r}?" if near else ""


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ValueError, naming the nearest allowed word, unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}{did_you_mean(value, allowed)}")


def check_number(name: str, value: object, *, minimum: float, strict: bool = False) -> None:
    """Raise unless ``value`` is a finite Python number at least (``strict``: above) ``minimum``."""
    bound = f"a finite number {'>' if strict else '>='} {minimum:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); allowed: {bound}")
    if not math.isfinite(value) or value < minimum or (strict and value == minimum):
        raise ValueError(f"{name} is {value!r}; allowed: {bound}")


def check_count(name: str, value: object, *, minimum: int = 1) -> None:
    """Raise unless ``value`` is an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); allowed: an integer >= {minimum}")
    if value < minimum:
        raise ValueError(f"{name} is {value}; allowed: an integer >= {minimum}")


def check_tensor(name: str, value: object, shape: str, sizes: Sequence[int | None]) -> Tensor:
    """Return ``value`` if it is a real floating tensor of ``sizes`` (None: any size from 1), else raise.

    ``shape`` is the shape in the notation of the docstrings, such as ``"(B, M, D)"``.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; allowed: a floating tensor {shape}")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}; allowed: a floating tensor {shape}")
    given = tuple(value.shape)
    fits = len(given) == len(sizes) and all(g >= 1 if want is None else g == want for g, want in zip(given, sizes))
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in sizes)
        raise ValueError(f"{name} has shape {given}; allowed: {shape} = ({wanted})")
    return value


class NonFiniteError(ValueError, FloatingPointError):
    """An input holds NaN or infinity."""


def check_finite(name: str, value: Tensor) -> None:
    """Raise NonFiniteError if ``value`` holds NaN or infinity (one host sync)."""
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        found = f"{value.numel() - int(finite.sum())} non-finite of {value.numel()} values"
        raise NonFiniteError(f"{name} holds {found}; allowed: finite values where valid")


@torch.no_grad()
def first_non_finite(named: Iterable[tuple[str, Tensor]]) -> str:
    """Describe the first of the named tensors that holds NaN or infinity; return "" if none does (one host sync)."""
    tensors = [(name, tensor.detach()) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    if not tensors:
        return ""
    peaks = torch.stack([tensor.abs().amax().float() for _, tensor in tensors])
    for (name, tensor), finite in zip(tensors, peaks.isfinite().tolist()):
        bad = 0 if finite else int((~tensor.isfinite()).sum())  # 0 also for a float64 beyond float32
        if bad:
            held = f"holds {bad:,} NaN or infinite of {tensor.numel():,} values"
            return f"{name} {held if tensor.numel() > 1 else f'is {tensor.item()}'}"
    return ""


def check_resolution(largest: Tensor, lam: float) -> None:
    """Raise ValueError if ``largest``, the largest (cost - row minimum) / lam, has a rounding error of one or more.

    exp(-cost / lam), and so the plan, would be wrong by a factor.
    """
    kind, found = torch.finfo(largest.dtype), float(largest)
    if not found * kind.eps <= 1:  # NaN is 0 times an infinite 1 / lam
        more = "" if largest.dtype == torch.float64 else ", or float64 costs"
        raise ValueError(
            f"lam is {lam:g}, too small for these costs: the largest (cost - row minimum) / lam is {found:.4g}; "
            f"allowed: at most {1 / kind.eps:.4g}, beyond which {kind.dtype} has rounding errors above 1{more}"
        )


def check_mask(name: str, mask: object, shape: Sequence[int], device: torch.device) -> Tensor | None:
    """Return ``mask`` broadcast to ``shape`` (a view), or None; raise unless it has a True entry along its last axis
    for each problem."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} is {kind}; allowed: a torch.bool tensor, True where valid")
    if mask.device != device:
        raise ValueError(f"{name} is on {mask.device}; allowed: {device}, where the values are")
    try:
        full = mask.expand(*shape)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; allowed: shapes broadcastable to {tuple(shape)}"
        ) from None
    if not bool(mask.any(-1).all()):
        raise ValueError(f"{name} leaves a problem with no valid entry; allowed: at least one True along its last axis")
    return full
