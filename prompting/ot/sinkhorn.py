"""Entropic optimal transport plans between uniform weights, for a batch of masked problems."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_choice, check_count, check_finite, check_mask
from .iterate import KernelDomain, LogDomain, iterate
from .options import check_solver

DOMAINS = ("auto", "kernel", "log")
STOPS = ("marginal", "change")
# Largest (cost - row minimum) / lambda that the kernel domain takes: scalings stay within exp(+-2 * 40), which float32
# (exp(+-87)) holds with room for sums over thousands of entries.
KERNEL_LIMIT = 40.0


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
    """(...) |plan 1 - u|_1 + |plan' 1 - v|_1."""
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
        tol: what the stop rule compares with, >= 0.
        gradient: ``envelope``: the plan is a constant, d distance / d cost = plan (exact at the optimum, where the
            plan's own change does not matter for the regularised value); ``unrolled``: autograd runs through all
            iterations, plan and potentials carry gradients too.
        domain: ``kernel`` works with exp(-cost / lam), each row shifted by its minimum; ``log`` with logarithms;
            ``auto`` takes ``kernel`` for each problem whose shifted cost is at most 40 lam and ``log`` for the others.
        stop: ``marginal``: a problem stops when its row sums are within ``tol`` of 1/J (L1). ``change``: a *group* of
            problems stops after the iteration in which mean |r - r_before| < tol over the valid rows of the group, r
            starting at ones. Either way it is frozen from then on, whatever other problems or groups need.
        group_dims: for ``change``, how many trailing batch dimensions share one stop (0: each problem by itself).

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
    row = check_mask("row_mask", row_mask, (*batch, rows), cost.device)
    col = check_mask("col_mask", col_mask, (*batch, cols), cost.device)

    with torch.autocast(cost.device.type, enabled=False):
        work = cost if cost.dtype == torch.float64 else cost.float()
        if row is not None or col is not None:
            row = torch.ones(*batch, rows, dtype=torch.bool, device=cost.device) if row is None else row
            col = torch.ones(*batch, cols, dtype=torch.bool, device=cost.device) if col is None else col
            work = work.masked_fill(~(row.unsqueeze(-1) & col.unsqueeze(-2)), 0.0)
        check_finite("cost", work)
        group = (math.prod(batch[: len(batch) - group_dims]), math.prod(batch[len(batch) - group_dims :]))
        masks = None if row is None or col is None else (row.reshape(*group, rows), col.reshape(*group, cols))
        with torch.set_grad_enabled(gradient == "unrolled" and torch.is_grad_enabled()):
            flat = work.reshape(*group, rows, cols)
            solved = _solve(flat, masks, lam, domain, {"max_iter": max_iter, "tol": tol, "stop": stop})
            plan = solved.plan.reshape(cost.shape)
            f, g = solved.f.reshape(*batch, rows), solved.g.reshape(*batch, cols)
        distance = (plan * work).sum((-2, -1))
    each = [x.reshape(batch) for x in (solved.iterations, solved.error, solved.converged)]
    return SinkhornOutput(plan, distance, (f, g), each[0], each[1], each[2])


class _Solved(NamedTuple):
    plan: Tensor  # (G, Q, J, L)
    f: Tensor  # (G, Q, J)
    g: Tensor  # (G, Q, L)
    iterations: Tensor  # (G, Q)
    error: Tensor  # (G, Q)
    converged: Tensor  # (G, Q)


def _solve(cost: Tensor, masks: tuple[Tensor, Tensor] | None, lam: float, domain: str, options: dict) -> _Solved:
    """Solve (G, Q, J, L) finite costs, choosing a domain for each group."""
    # The shift changes neither plan nor potentials, so it may be a constant to autograd.
    shift, valid = cost.detach(), None
    if masks is not None:
        valid = masks[0].unsqueeze(-1) & masks[1].unsqueeze(-2)
        shift = shift.masked_fill(~valid, math.inf)
    shift = shift.amin(-1)  # (G, Q, J)
    if masks is not None:
        shift = shift.masked_fill(~masks[0], 0.0)
    scaled = (cost - shift.unsqueeze(-1)) / lam
    if valid is not None:
        scaled = scaled.masked_fill(~valid, 0.0)
    if domain != "log":
        exponent = scaled.detach().amax((1, 2, 3)) if scaled.numel() else scaled.new_zeros(scaled.shape[0])
        small = exponent <= KERNEL_LIMIT
        if bool(small.all()):
            domain = "kernel"
        elif domain == "kernel":
            raise ValueError(
                f"domain is 'kernel' but the largest (cost - row minimum) / lam is {float(exponent.max()):.4g}; "
                f"allowed: at most {KERNEL_LIMIT:g}, or domain 'auto' or 'log'"
            )
        elif not bool(small.any()):
            domain = "log"
        else:
            parts = [small.nonzero().squeeze(-1), (~small).nonzero().squeeze(-1)]
            solved = [
                _solve(cost[part], None if masks is None else (masks[0][part], masks[1][part]), lam, name, options)
                for part, name in zip(parts, ("kernel", "log"))
            ]
            order = torch.cat(parts).argsort()
            return _Solved(*(torch.cat(fields)[order] for fields in zip(*solved)))

    u, v = (
        torch.full((*cost.shape[:2], n), 1.0 / n, dtype=cost.dtype, device=cost.device)
        if masks is None
        else masks[i].to(cost.dtype) / masks[i].sum(-1, keepdim=True)
        for i, n in enumerate(cost.shape[2:])
    )
    space = KernelDomain(scaled) if domain == "kernel" else LogDomain(scaled)
    end = iterate(space, u, v, shift / lam, **options)
    plan = space.plan(end.r, end.c)
    f, g = lam * space.logarithm(end.r, u) + shift, lam * space.logarithm(end.c, v)
    with torch.no_grad():
        error = (plan.sum(-1) - u).abs().sum(-1) + (plan.sum(-2) - v).abs().sum(-1)
    iterations, stopped = (x.unsqueeze(-1).expand(cost.shape[:2]) for x in (end.iterations, end.stopped))
    return _Solved(plan, f, g, iterations, error, stopped)
