"""From costs to plans: blocks of problems that fit a cache, a domain for each group, what is reported of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import check_finite
from .iterate import KernelDomain, LogDomain, Scalings, iterate

# Largest (cost - row minimum) / lambda that the kernel domain takes: scalings stay within exp(+-2 * 40), which float32
# (exp(+-87)) holds with room for sums over thousands of entries.
KERNEL_LIMIT = 40.0
# What a block may take for each CPU thread; `python -m scripts.bench.ot --block-mib` compares sizes.
CACHE_BYTES = 2**22

Masks = tuple[Tensor, Tensor]  # (P, J) and (P, L), True where valid


class Solved(NamedTuple):
    """Of P problems: what ``SinkhornOutput`` says of them."""

    plan: Tensor | None  # (P, J, L)
    distance: Tensor  # (P,)
    f: Tensor  # (P, J)
    g: Tensor  # (P, L)
    iterations: Tensor  # (P,)
    error: Tensor  # (P,)
    converged: Tensor  # (P,)


def clean(cost: Tensor, masks: Masks | None) -> Tensor:
    """The costs (P, J, L) in float32 or better, zero on masked entries."""
    cost = cost if cost.dtype == torch.float64 else cost.float()
    return cost if masks is None else cost.masked_fill(~(masks[0].unsqueeze(-1) & masks[1].unsqueeze(-2)), 0.0)


def cached(bytes_each: int) -> int:
    """How many things of ``bytes_each`` the caches of all CPU threads hold together, at least 1."""
    return max(1, torch.get_num_threads() * CACHE_BYTES // bytes_each)


def solve(
    cost: Tensor,
    masks: Masks | None,
    *,
    lam: float,
    domain: str,
    keep_plan: bool,
    on_chip: bool,
    group: int,
    **stopping: Any,
) -> Solved:
    """Solve P problems (P, J, L) as ``sinkhorn`` says, each ``group`` neighbours stopping together.

    On a CPU, and where autograd does not record, block after block: a block's kernel stays in cache for all iterations.
    """

    def check() -> None:
        check_finite("cost", clean(cost, masks))

    def run(part: Any) -> Solved:
        part_masks = None if masks is None else (masks[0][part], masks[1][part])
        costs = clean(cost[part], part_masks)
        return _solve_block(costs, part_masks, lam, domain, keep_plan, group, stopping, check)

    problems, rows, cols = cost.shape
    if not problems:
        return _none(cost)
    if on_chip:
        from .chip.kernel import solve_on_chip  # needs Triton

        solved, depth = solve_on_chip(cost, masks, lam, keep_plan, stopping["max_iter"], stopping["tol"])
        beyond = (~(depth <= KERNEL_LIMIT)).nonzero().squeeze(-1)  # not finite, or for the log domain
        return _write(solved, beyond, run(beyond)) if len(beyond) else solved
    size = problems
    if cost.device.type == "cpu" and not (torch.is_grad_enabled() and cost.requires_grad):
        size = group * cached(group * max(4, cost.element_size()) * (rows * cols + 2 * (rows + cols)))
    if size >= problems:
        return run(slice(None))
    first = run(slice(0, size))
    fields: list[Any] = [None if x is None else _like(x, problems) for x in first]
    whole = _write(Solved(*fields), slice(0, size), first)
    for start in range(size, problems, size):
        part = slice(start, start + size)
        whole = _write(whole, part, run(part))
    return whole


@torch.no_grad()
def _row_error(space: KernelDomain | LogDomain, end: Scalings, u: Tensor) -> Tensor:
    """Return |plan 1 - u|_1 (P,)."""
    return (space.product(end.r, space.rows(end.c)) - u).abs_().sum((1, 2))


def _none(cost: Tensor) -> Solved:
    each, none = clean(cost, None).sum((-2, -1)), torch.zeros(0, dtype=torch.int64, device=cost.device)
    return Solved(clean(cost, None), each, cost[:, :, 0], cost[:, 0], none, each, none.bool())


def _like(x: Tensor, problems: int) -> Tensor:
    # Plans come with J innermost as a rule (see iterate.py); written as they come they need no transposition.
    return x.mT.new_empty(problems, *x.mT.shape[1:]).mT if x.dim() == 3 else x.new_empty(problems, *x.shape[1:])


def _write(whole: Solved, part: Any, values: Solved) -> Solved:
    for x, value in zip(whole, values):
        if x is not None and value is not None:
            x[part] = value
    return whole


def _solve_block(
    cost: Tensor,
    masks: Masks | None,
    lam: float,
    domain: str,
    keep_plan: bool,
    group: int,
    stopping: dict[str, Any],
    check: Callable[[], None],
) -> Solved:
    """Solve clean costs (P, J, L), choosing a domain for each group; ``check`` raises if they are not finite."""
    # The longer side is kept innermost in memory, of two equal ones whichever is.
    wide = cost.shape[2] > cost.shape[1] or (cost.shape[2] == cost.shape[1] and cost.is_contiguous())
    laid = cost.contiguous().mT if wide else cost.mT.contiguous()  # (P, L, J); mixing layouts costs more than this copy
    outside = None if masks is None else ~(masks[1].unsqueeze(-1) & masks[0].unsqueeze(-2))
    # The shift changes neither plan nor potentials, so it may be a constant to autograd.
    lowest = laid.detach() if outside is None else laid.detach().masked_fill(outside, math.inf)
    shift = lowest.amin(-2)  # (P, J)
    if masks is not None:
        shift = shift.masked_fill(~masks[0], 0.0)
    exponent = torch.sub(shift.unsqueeze(-2), laid).mul_(1.0 / lam)
    if outside is not None:
        exponent.masked_fill_(outside, 0.0)

    if not bool(-exponent.detach().amin() <= KERNEL_LIMIT):
        depth = -exponent.detach().amin((-2, -1))
        depth = depth if group == 1 else depth.reshape(-1, group).amax(-1)
        small = depth <= KERNEL_LIMIT
        if not bool(torch.isfinite(depth).all()):
            check()
        if domain == "kernel":
            raise ValueError(
                f"domain is 'kernel' but the largest (cost - row minimum) / lam is {float(depth.max()):.4g}; "
                f"allowed: at most {KERNEL_LIMIT:g}, or domain 'auto' or 'log'"
            )
        if domain == "auto" and bool(small.any()):
            by_group = small.repeat_interleave(group)
            parts = [chosen.nonzero().squeeze(-1) for chosen in (by_group, ~by_group)]
            solved = [
                _solve_block(
                    cost[part],
                    None if masks is None else (masks[0][part], masks[1][part]),
                    lam,
                    name,
                    keep_plan,
                    group,
                    stopping,
                    check,
                )
                for part, name in zip(parts, ("kernel", "log"))
            ]
            order = torch.cat(parts).argsort()
            fields: list[Any] = [None if x[0] is None else torch.cat(x)[order] for x in zip(*solved)]
            return Solved(*fields)
        domain = "log"

    u, v = (  # (P, 1, J), (P, 1, L)
        torch.full((1, 1, n), 1.0 / n, dtype=cost.dtype, device=cost.device).expand(len(cost), 1, n)
        if masks is None
        else (masks[i].to(cost.dtype) / masks[i].sum(-1, keepdim=True)).unsqueeze(1)
        for i, n in enumerate(cost.shape[1:])
    )
    space = LogDomain(exponent) if domain == "log" else KernelDomain(exponent)
    end = iterate(space, u, v, shift.unsqueeze(1) / lam, group=group, **stopping)
    f, g = (lam * space.logarithm(x, w).squeeze(1) for x, w in ((end.r, u), (end.c, v)))
    # The last half step was the columns', whose sums are met to rounding.
    error = end.gap if stopping["stop"] == "marginal" else _row_error(space, end, u)
    plan = space.plan(end.r, end.c) if keep_plan else None  # (P, L, J)
    with torch.no_grad():
        distance = space.average(end.r, end.c, laid) if plan is None else (plan * laid).sum((-2, -1))
    iterations, stopped = end.iterations, end.stopped
    if group > 1:
        iterations, stopped = (x.repeat_interleave(group) for x in (iterations, stopped))
    return Solved(None if plan is None else plan.mT, distance, f + shift, g, iterations, error, stopped)
