"""The Sinkhorn iteration, on scalings or on their logarithms, for problems that stop one by one or in groups.

Shapes: P problems; weights u (P, 1, J) and v (P, 1, L), zero on masked entries; costs (P, L, J). With J, usually the
longer side, last, both products of an iteration are a row vector times a matrix, the fastest batched product on a CPU.
A weight of zero makes its scaling zero from the first iteration on, so the iteration needs no masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_finite
from .settings import SinkhornSettings

# Largest (cost - row minimum) / lambda of the kernel scaling: r and c stay within exp(+-2 * 40), which float32
# (exp(+-87)) represents with room for sums over thousands of entries.
KERNEL_LIMIT = 40.0


class Kernel:
    """Scalings r and c, with the matrix K = exp(exponent) in memory; plan = diag(r) K diag(c)."""

    def __init__(self, exponent: Tensor) -> None:
        self.matrix = exponent.exp_()  # (P, L, J)

    def rows(self, c: Tensor) -> Tensor:
        """K c, (P, 1, J)."""
        return torch.bmm(c, self.matrix)

    def columns(self, r: Tensor) -> Tensor:
        """K' r, (P, 1, L)."""
        return torch.bmm(r, self.matrix.mT)

    def fit(self, weights: Tensor, total: Tensor) -> Tensor:
        """The scaling that changes ``total`` to ``weights``."""
        return weights / total

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """x y."""
        return x * y

    def plan(self, r: Tensor, c: Tensor) -> Tensor:
        """The plan, (P, L, J)."""
        return self.matrix * r * c.mT

    def average(self, r: Tensor, c: Tensor, cost: Tensor) -> Tensor:
        """<plan, cost>, (P,); without autograd in the memory of K, so this is the last use of it."""
        weighted = self.matrix * cost if torch.is_grad_enabled() else self.matrix.mul_(cost)
        return (torch.bmm(c, weighted) * r).sum((1, 2))

    def exp(self, logarithm: Tensor) -> Tensor:
        """The scaling with this logarithm."""
        return logarithm.exp()

    def log(self, scaling: Tensor, weights: Tensor) -> Tensor:
        """The logarithm of a scaling; 0 where the weight is 0, so that no gradient meets log 0."""
        return scaling.where(weights > 0, 1.0).log()


class Log:
    """The same with log r and log c in place of r and c: nothing under- or overflows, however small lambda is."""

    def __init__(self, exponent: Tensor) -> None:
        self.matrix = exponent  # (P, L, J)

    def rows(self, c: Tensor) -> Tensor:
        """log(K c), (P, 1, J)."""
        return torch.logsumexp(self.matrix + c.mT, dim=1, keepdim=True)

    def columns(self, r: Tensor) -> Tensor:
        """log(K' r), (P, 1, L)."""
        return torch.logsumexp(self.matrix + r, dim=2, keepdim=True).mT

    def fit(self, weights: Tensor, total: Tensor) -> Tensor:
        """The log scaling that changes ``total`` to ``weights``."""
        return weights.log() - total

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """exp(x + y)."""
        return (x + y).exp()

    def plan(self, r: Tensor, c: Tensor) -> Tensor:
        """The plan, (P, L, J)."""
        return (self.matrix + r + c.mT).exp()

    def average(self, r: Tensor, c: Tensor, cost: Tensor) -> Tensor:
        """<plan, cost>, (P,)."""
        return (self.plan(r, c) * cost).sum((1, 2))

    def exp(self, logarithm: Tensor) -> Tensor:
        """The log scaling itself."""
        return logarithm

    def log(self, scaling: Tensor, weights: Tensor) -> Tensor:
        """The log scaling; 0 where the weight is 0."""
        return scaling.where(weights > 0, 0.0)


class Solved(NamedTuple):
    """The solution of P problems; the fields are those of ``SinkhornOutput``."""

    plan: Tensor | None  # (P, L, J)
    distance: Tensor  # (P,)
    f: Tensor  # (P, 1, J)
    g: Tensor  # (P, 1, L)
    iterations: Tensor  # (P,)
    error: Tensor  # (P,)
    converged: Tensor  # (P,)


def _join(parts: Sequence[Solved]) -> Solved:
    return Solved(*(None if x[0] is None else torch.cat(x) for x in zip(*parts)))  # type: ignore[arg-type]


def cached_elements() -> int:
    """Return the number of float32 costs that the caches of the CPU threads hold, 4 MiB a thread."""
    return 2**20 * torch.get_num_threads()


def clean(cost: Tensor, row_mask: Tensor | None, col_mask: Tensor | None) -> Tensor:
    """Return the costs (..., J, L) in float32 or float64, with zeros on masked entries."""
    cost = cost if cost.dtype == torch.float64 else cost.float()
    for mask, axis in ((row_mask, -1), (col_mask, -2)):
        cost = cost if mask is None else cost.masked_fill(~mask.unsqueeze(axis), 0.0)
    return cost


def solve(
    cost: Tensor,
    row_mask: Tensor | None,
    col_mask: Tensor | None,
    settings: SinkhornSettings,
    group: int,
    return_plan: bool,
    all_reduce_sum: Callable[[Tensor], Tensor] | None,
) -> Solved:
    """Solve clean costs (P, L, J) as ``sinkhorn`` says, with the same stop for each ``group`` of neighbours.

    Args:
        cost: (P, L, J), zero on masked entries.
        row_mask, col_mask: bool (P, 1, J) and (P, 1, L), or None.
        settings, return_plan, all_reduce_sum: as for ``sinkhorn``.
        group: number of problems in a group; 1 for stop ``marginal``.

    Raises:
        ValueError: costs that are not finite, or too large for scaling ``kernel``.
    """

    def part(index: slice | Tensor, settings: SinkhornSettings) -> Solved:
        row, col = (None if mask is None else mask[index] for mask in (row_mask, col_mask))
        return solve(cost[index], row, col, settings, group, return_plan, all_reduce_sum)

    if cost.device.type == "cpu" and not torch.is_grad_enabled():
        size = group * max(1, cached_elements() // (group * cost.shape[1:].numel()))
        if size < len(cost):
            return _join([part(slice(i, i + size), settings) for i in range(0, len(cost), size)])
    cost = cost.contiguous()
    # The shift by the row minimum changes neither plan nor potentials, so it is a constant to autograd.
    lowest = cost.detach()
    lowest = lowest if col_mask is None else lowest.masked_fill(~col_mask.mT, torch.inf)
    shift = lowest.amin(1, keepdim=True)  # (P, 1, J)
    exponent = (shift - cost).mul_(1.0 / settings.lam)
    for mask in (row_mask, None if col_mask is None else col_mask.mT):
        exponent = exponent if mask is None else exponent.masked_fill_(~mask, 0.0)

    scaling = settings.scaling
    depth = -exponent.detach().amin((1, 2)).view(-1, group).amin(1)  # (groups,); NaN and infinity compare as too large
    fits = depth <= KERNEL_LIMIT
    if bool(fits.all()):
        scaling = "kernel" if scaling == "auto" else scaling
    else:
        check_finite("cost", cost)
        if scaling == "kernel":
            raise ValueError(
                f"scaling is 'kernel' but the largest (cost - row minimum) / lam is {float(depth.max()):.4g}; "
                f"allowed: at most {KERNEL_LIMIT:g}, or scaling 'auto' or 'log'"
            )
        if scaling == "auto" and bool(fits.any()):  # each group with the scaling that fits it
            fits = fits.repeat_interleave(group)
            parts = [chosen.nonzero().squeeze(1) for chosen in (fits, ~fits)]
            solved = _join([part(i, replace(settings, scaling=name)) for i, name in zip(parts, ("kernel", "log"))])
            order = torch.cat(parts).argsort()
            return Solved(*(None if x is None else x[order] for x in solved))  # type: ignore[arg-type]
        scaling = "log"

    u, v = (
        cost.new_full((1, 1, size), 1.0 / size).expand(len(cost), 1, size)
        if mask is None
        else mask / mask.sum(2, keepdim=True, dtype=cost.dtype)
        for mask, size in ((row_mask, cost.shape[2]), (col_mask, cost.shape[1]))
    )
    matrix = Log(exponent) if scaling == "log" else Kernel(exponent)
    r, c, iterations, converged = iterate(matrix, u, v, shift / settings.lam, settings, group, all_reduce_sum)
    with torch.no_grad():
        error = (matrix.product(r, matrix.rows(c)) - u).abs_().sum((1, 2))
    return Solved(
        matrix.plan(r, c) if return_plan else None,
        matrix.average(r, c, cost),
        settings.lam * matrix.log(r, u) + shift.masked_fill(u == 0, 0.0),
        settings.lam * matrix.log(c, v),
        iterations.repeat_interleave(group),
        error,
        converged.repeat_interleave(group),
    )


def iterate(
    matrix: Kernel | Log,
    u: Tensor,
    v: Tensor,
    log_shift: Tensor,
    settings: SinkhornSettings,
    group: int,
    all_reduce_sum: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Alternate r = u / (K c), c = v / (K' r) from c = 1; keep r and c of each group as they are when it stops.

    Args:
        matrix: K, or its logarithm.
        u, v: weights (P, 1, J) and (P, 1, L), zero on masked entries.
        log_shift: (P, 1, J), r = exp(log_shift) r': the rule ``change``, whose tolerance is absolute, is about the r of
            exp(-cost / lam), and ``matrix`` gives the r' of the kernel with shifted rows.
        settings, group, all_reduce_sum: as for ``solve``.

    Returns:
        r (P, 1, J) and c (P, 1, L), scalings or their logarithms; iterations and converged (groups,).
    """

    def group_sum(x: Tensor) -> Tensor:
        total = x.sum((1, 2)).view(-1, group).sum(1)
        return all_reduce_sum(total) if all_reduce_sum else total

    change = settings.stop == "change"
    look_every = 1 if u.device.type == "cpu" else 4  # asking whether all groups have stopped waits for a GPU
    with torch.no_grad():
        unshift = matrix.exp(log_shift)
        before = (u > 0).to(u.dtype)
        limit = settings.tol * (group_sum(before) if change else 1.0)
    c = matrix.exp((v > 0).to(v.dtype).log())  # 1, and 0 where the weight is 0
    total = matrix.rows(c)
    running = torch.ones(len(u) // group, dtype=torch.bool, device=u.device)
    iterations = torch.zeros_like(running, dtype=torch.int64)
    for step in range(1, settings.max_iter + 1):
        r = matrix.fit(u, total)
        c = matrix.fit(v, matrix.columns(r))
        total = matrix.rows(c)  # of the next r, and of the row sums now
        iterations += running
        if step == 1 or settings.tol == 0:
            r_end, c_end = r, c
        else:
            problems = running.repeat_interleave(group).view(-1, 1, 1)
            r_end, c_end = torch.where(problems, r, r_end), torch.where(problems, c, c_end)
        if settings.tol == 0:
            continue
        with torch.no_grad():
            if change:
                after = matrix.product(r, unshift)
                running = running & (group_sum((after - before).abs_()) >= limit)
                before = after
            else:
                running = running & (group_sum((matrix.product(r, total) - u).abs_()) > limit)
        if step % look_every == 0 and not bool(running.any()):
            break
    return r_end, c_end, iterations, ~running
