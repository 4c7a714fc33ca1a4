"""Entropic optimal transport between uniform weights, for a batch of masked problems."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from .checks import check_mask
from .settings import SinkhornSettings
from .solver import SinkhornOutput, solve


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

    plan = argmin_T <T, cost> - lam h(T), h(T) = -sum T ln T, with T 1 = u = 1/J and T' 1 = v = 1/L over valid entries.
    The iteration is r = u / (K c), c = v / (K' r) with K = exp(-cost / lam), from c = 1. It ends with c, so that the
    column sums (and the total, 1) are exact up to rounding, converged or not; the row sums up to the tolerance, where
    ``converged`` says so.

    Args:
        cost: (..., J, L), any floating dtype; half precision is computed in float32. Values on masked entries are
            ignored, NaN included.
        settings: a ``SinkhornSettings``; None for the defaults and ``lam`` from ``changes``.
        row_mask: bool, broadcastable to (..., J), True = valid; each problem needs one True. None: all valid.
        col_mask: bool, broadcastable to (..., L), under the same rules.
        return_plan: False leaves ``plan`` out of the result.
        all_reduce_sum: sums a tensor over the processes that hold parts of the batch, so that all stop together, as a
            single process with the whole batch does. Allowed for stop ``change`` with the batch as one group.
        **changes: fields of ``SinkhornSettings`` that differ from ``settings``.

    Returns:
        SinkhornOutput. The values of a problem do not depend on other problems (``change``: on other groups).

    Raises:
        TypeError, ValueError: one line with the value found and the values allowed; also for costs / lam that the
            dtype does not resolve.

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
        cost = cost if cost.dtype == torch.float64 else cost.float()
        cost = cost.mT.reshape(-1, cols, rows) if cost.numel() else cost.new_empty(0, cols, rows)  # (P, L, J)
        row_mask = None if row_mask is None else row_mask.reshape(-1, 1, rows)
        col_mask = None if col_mask is None else col_mask.reshape(-1, 1, cols)
        group = max(1, math.prod(batch[ungrouped:]))
        with torch.set_grad_enabled(learning and settings.gradient == "unrolled"):
            solved = solve(cost, row_mask, col_mask, settings, group, return_plan or learning, all_reduce_sum)
        if learning:
            plan = cast(Tensor, solved.plan).mT
            for mask in (row_mask, None if col_mask is None else col_mask.mT):
                cost = cost if mask is None else cost.masked_fill(~mask, 0.0)
            solved = solved._replace(distance=(plan * cost).sum((1, 2)))
    solved = solved.map(lambda x: x.reshape(batch + x.shape[1:]))
    return solved if return_plan else solved._replace(plan=None)
