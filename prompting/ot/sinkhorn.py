"""Entropic optimal transport plans between uniform weights, for a batch of masked problems."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_choice, check_count, check_mask
from .chip import ENGINES, use_chip
from .options import check_solver
from .solve import KERNEL_LIMIT, clean, solve

__all__ = ["DOMAINS", "ENGINES", "KERNEL_LIMIT", "STOPS", "SinkhornOutput", "sinkhorn"]

DOMAINS = ("auto", "kernel", "log")
STOPS = ("marginal", "change")


class SinkhornOutput(NamedTuple):
    """Plans and how each was reached. ``...`` are the batch dimensions of the cost; all values float32 or better."""

    plan: Tensor | None
    """(..., J, L), zero on masked entries; None only where a caller chose not to keep it."""
    distance: Tensor
    """(...) <plan, cost>; carries the gradient."""
    potentials: tuple[Tensor, Tensor]
    """f (..., J) and g (..., L): plan = exp((f + g - cost) / lam) on valid entries; zero on masked ones."""
    iterations: Tensor
    """(...) int64, iterations done before the problem was frozen."""
    error: Tensor
    """(...) |plan 1 - u|_1; the columns' sums are met to rounding."""
    converged: Tensor
    """(...) bool: stopped by the tolerance rather than by ``max_iter``."""


def sinkhorn(
    cost: Tensor,
    *,
    lam: float,
    row_mask: Tensor | None = None,
    col_mask: Tensor | None = None,
    max_iter: int = 100,
    tol: float = 1e-2,
    gradient: str = "envelope",
    domain: str = "auto",
    stop: str = "marginal",
    group_dims: int = 0,
    keep_plan: bool = True,
    engine: str = "torch",
    pooled: Callable[[Tensor], Tensor] | None = None,
) -> SinkhornOutput:
    """Solve entropic optimal transport between uniform weights on the valid rows and columns of each cost.

    plan = argmin_T <T, cost> - lam h(T), h(T) = -sum T ln T, with T 1 = 1/J and T' 1 = 1/L over valid entries; by
    r = u / (K c), c = v / (K' r) with K = exp(-cost / lam) from c = 1. The last half step is that of the columns, so
    their sums (and the total, 1) are met to rounding, the rows' to the tolerance.

    Args:
        cost: (..., J, L), any floating dtype; half precision is computed in float32, float64 stays. Values on masked
            entries are ignored, whatever they are.
        lam: entropy weight lambda, > 0.
        row_mask, col_mask: bool, broadcastable to (..., J) and (..., L), True = valid; at least one True a problem.
        max_iter: iteration cap, >= 1.
        tol: what the stop rule compares with, >= 0; with 0 all ``max_iter`` iterations are done.
        gradient: ``envelope``: the plan is a constant, d distance / d cost = plan (exact at the optimum, where the
            plan's own change does not matter for the regularised value); ``unrolled``: autograd runs through all
            iterations, plan and potentials carry gradients too.
        domain: ``kernel`` works with exp(-cost / lam), each row shifted by its minimum; ``log`` with logarithms;
            ``auto`` takes ``kernel`` for each problem whose shifted cost is at most 40 lam and ``log`` for the others.
        stop: ``marginal``: a problem stops when its row sums are within ``tol`` of 1/J (L1). ``change``: a *group* of
            problems stops after the iteration in which mean |r - r_before| < tol over the valid rows of the group, r
            starting at ones. Either way it is frozen from then on, whatever other problems or groups need.
        group_dims: for ``change``, how many trailing batch dimensions share one stop (0: each problem by itself).
        keep_plan: False returns None for the plan, and where no gradient is wanted the plans are never held together:
            on a CPU, problems are solved in blocks that stay in its cache through all iterations.
        engine: ``torch``; ``triton``: a CUDA kernel that holds each problem on chip through all its iterations, for
            stop ``marginal``, values up to float32, iterations that are not recorded and at most 2^14 entries a problem
            (sides rounded up to powers of two); ``auto`` takes ``triton`` for CUDA costs where it can.
        pooled: for ``change`` with all problems in one group, of which other processes hold further problems: returns
            the sum of a tensor over these processes, so that all stop as one process with all problems would.

    Returns:
        SinkhornOutput; a problem's values do not depend on the other problems (``change``: groups).

    Raises:
        TypeError, ValueError: one line saying what was given and what is allowed.

    Reference:
        Cuturi, Sinkhorn Distances, NeurIPS 2013; ALIGN (arXiv 2309.13847), Eq. 4 and 5. The rule ``change`` is the one
        of the released ALIGN code.
    """
    check_solver(lam=lam, max_iter=max_iter, tol=tol, gradient=gradient)
    check_choice("domain", domain, DOMAINS)
    check_choice("stop", stop, STOPS)
    check_choice("engine", engine, ENGINES)
    if not isinstance(cost, Tensor) or not cost.is_floating_point():
        kind = cost.dtype if isinstance(cost, Tensor) else type(cost).__name__
        raise TypeError(f"cost is {kind}; allowed: a floating tensor (..., J, L)")
    if cost.dim() < 2 or 0 in cost.shape[-2:]:
        raise ValueError(f"cost has shape {tuple(cost.shape)}; allowed: (..., J, L) with J, L >= 1")
    batch, (rows, cols) = tuple(cost.shape[:-2]), tuple(cost.shape[-2:])
    check_count("group_dims", group_dims, minimum=0)
    if group_dims > (len(batch) if stop == "change" else 0):
        raise ValueError(
            f"group_dims is {group_dims} with stop={stop!r} and {len(batch)} batch dimensions; "
            "allowed: 0 for 'marginal', 0 to the number of batch dimensions for 'change'"
        )
    if pooled is not None and (stop != "change" or group_dims < len(batch)):
        raise ValueError(
            f"pooled is given with stop={stop!r} and group_dims {group_dims}; allowed: stop 'change' and all "
            f"{len(batch)} batch dimensions"
        )
    row = check_mask("row_mask", row_mask, (*batch, rows), cost.device)
    col = check_mask("col_mask", col_mask, (*batch, cols), cost.device)

    learning = torch.is_grad_enabled() and cost.requires_grad
    recording = learning and gradient == "unrolled"
    with torch.autocast(cost.device.type, enabled=False):
        masks = None
        if row is not None or col is not None:
            valid = torch.ones((), dtype=torch.bool, device=cost.device)
            row = valid.expand(*batch, rows) if row is None else row
            col = valid.expand(*batch, cols) if col is None else col
            masks = (row.reshape(-1, rows), col.reshape(-1, cols))
        # Where batch dimensions can only be joined by a copy, it keeps J innermost, as the iterations want it.
        flat = cost.mT.reshape(-1, cols, rows).mT if cost.numel() else cost.new_empty(0, rows, cols)
        with torch.set_grad_enabled(recording):
            solved = solve(
                flat,
                masks,
                lam=lam,
                domain=domain,
                keep_plan=keep_plan or learning,
                on_chip=use_chip(engine, cost, domain=domain, stop=stop, recording=recording),
                group=math.prod(batch[len(batch) - group_dims :]),
                max_iter=max_iter,
                tol=tol,
                stop=stop,
                pooled=pooled,
            )
        plan, distance = solved.plan, solved.distance
        if plan is not None:
            if learning:
                distance = (plan * clean(flat, masks)).sum((-2, -1))
            plan = plan.reshape(cost.shape)
    f, g = solved.f.reshape(*batch, rows), solved.g.reshape(*batch, cols)
    each = [x.reshape(batch) for x in (distance, solved.iterations, solved.error, solved.converged)]
    return SinkhornOutput(plan if keep_plan else None, each[0], (f, g), each[1], each[2], each[3])
