"""Entropic optimal transport between uniform weights, for a batch of masked problems."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import check_mask
from .settings import SinkhornSettings
from .solver import clean, solve


class SinkhornOutput(NamedTuple):
    """The solution of a batch of problems; ``...`` are the batch dimensions. Values are float32 or float64."""

    plan: Tensor | None
    """(..., J, L), zero on masked entries; None with ``return_plan=False``."""
    distance: Tensor
    """(...) <plan, cost>, which carries the gradient."""
    potentials: tuple[Tensor, Tensor]
    """f (..., J) and g (..., L): plan = exp((f + g - cost) / lam) on valid entries; zero on masked ones."""
    iterations: Tensor
    """(...) int64, number of iterations until the problem stopped."""
    error: Tensor
    """(...) |plan 1 - u|_1, the error of the row sums; the column sums are exact up to rounding."""
    converged: Tensor
    """(...) bool: whether the tolerance was met within ``max_iter`` iterations; False with ``tol=0``."""


def sinkhorn(
    cost: Tensor,
    settings: SinkhornSettings | None = None,
    *,
    row_mask: Tensor | None = None,
    col_mask: Tensor | None = None,
    return_plan: bool = True,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
    **changes: Any,
) -> SinkhornOutput:
    """Solve entropic optimal transport between uniform weights on the valid rows and columns of each cost.

    plan = argmin_T <T, cost> - lam h(T), h(T) = -sum T ln T, with T 1 = u = 1/J and T' 1 = v = 1/L over valid entries;
    by r = u / (K c), c = v / (K' r) with K = exp(-cost / lam), from c = 1. The columns come last in an iteration, so the
    column sums (and the total, 1) are exact up to rounding, the row sums up to the tolerance.

    Args:
        cost: (..., J, L), any floating dtype; half precision is computed in float32. Values on masked entries are
            ignored, NaN included.
        settings: a ``SinkhornSettings``; None with at least ``lam=`` among ``changes``.
        row_mask: bool, broadcastable to (..., J), True = valid; each problem needs one True. None: all valid.
        col_mask: bool, broadcastable to (..., L); likewise.
        return_plan: False leaves ``plan`` out of the result.
        all_reduce_sum: sums a tensor over processes. For stop ``change`` with the whole batch as one group, of which
            other processes hold further problems: all processes stop as one process with all problems does.
        **changes: fields of ``SinkhornSettings`` that differ from ``settings``.

    Returns:
        SinkhornOutput. The values of a problem do not depend on other problems (``change``: on other groups).

    Raises:
        TypeError, ValueError: one line with the value found and the values allowed.

    Source:
        Cuturi, Sinkhorn Distances, NeurIPS 2013; ALIGN (arXiv 2309.13847), Eqs. 4 and 5. The stop rule ``change`` is
        that of the released ALIGN code.
    """
    settings = replace(settings, **changes) if settings else SinkhornSettings(**changes)
    if not isinstance(cost, Tensor) or not cost.is_floating_point():
        kind = cost.dtype if isinstance(cost, Tensor) else type(cost).__name__
        raise TypeError(f"cost is {kind}; allowed: a floating tensor (..., J, L)")
    if cost.dim() < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost has shape {tuple(cost.shape)}; allowed: (..., J, L) with J, L >= 1")
    batch, (rows, cols) = cost.shape[:-2], cost.shape[-2:]
    ungrouped = len(batch) - settings.group_dims
    if ungrouped < 0:
        raise ValueError(f"group_dims is {settings.group_dims}; allowed: at most the {len(batch)} batch dimensions")
    if all_reduce_sum and (settings.stop != "change" or ungrouped):
        raise ValueError(
            f"all_reduce_sum is given with stop {settings.stop!r} and group_dims {settings.group_dims}; "
            f"allowed: stop 'change' and all {len(batch)} batch dimensions in one group"
        )
    row_mask = check_mask("row_mask", row_mask, (*batch, rows), cost.device)
    col_mask = check_mask("col_mask", col_mask, (*batch, cols), cost.device)

    learning = torch.is_grad_enabled() and cost.requires_grad
    with torch.autocast(cost.device.type, enabled=False):
        cost = clean(cost, row_mask, col_mask)
        with torch.set_grad_enabled(learning and settings.gradient == "unrolled"):
            plan, distance, f, g, iterations, error, converged = solve(
                cost.mT.reshape(-1, cols, rows) if cost.numel() else cost.new_empty(0, cols, rows),
                None if row_mask is None else row_mask.reshape(-1, 1, rows),
                None if col_mask is None else col_mask.reshape(-1, 1, cols),
                settings,
                group=math.prod(batch[ungrouped:]),
                return_plan=return_plan or learning,
                all_reduce_sum=all_reduce_sum,
            )
        if plan is not None:
            plan = plan.mT.reshape(cost.shape)
            if learning:
                distance = (plan * cost).sum((-2, -1))
    return SinkhornOutput(
        plan if return_plan else None,
        distance.reshape(batch),
        (f.reshape(*batch, rows), g.reshape(*batch, cols)),
        iterations.reshape(batch),
        error.reshape(batch),
        converged.reshape(batch),
    )
