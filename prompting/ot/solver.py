"""The Sinkhorn iteration, on scalings or on their logarithms, for problems that stop one by one or in groups.

Shapes: P problems; weights u (P, 1, J) and v (P, 1, L), zero on masked entries; costs (P, L, J). With J, usually the
longer side, last, both products of an iteration are a row vector times a matrix, the fastest batched product on a CPU.
A weight of zero makes its scaling zero from the first iteration on, so the iteration needs no masks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import check_finite, check_resolution
from .matrix import Matrix
from .settings import SinkhornSettings

# Largest (cost - row minimum) / lambda of the kernel scaling: r and c stay within exp(+-2 * 40), which float32
# (exp(+-87)) represents with room for sums over thousands of entries.
KERNEL_LIMIT = 40.0


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
    entropy: Tensor
    """(...) h(plan) = -sum plan ln plan, in nats, at most ln(J L)."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "SinkhornOutput":
        """Return the output with ``change`` applied to each tensor."""
        f, g = self.potentials
        plan = None if self.plan is None else change(self.plan)
        return SinkhornOutput(plan, change(self.distance), (change(f), change(g)), *map(change, self[3:]))


def concatenate(outputs: Sequence[SinkhornOutput], dim: int = 0) -> SinkhornOutput:
    """Concatenate the outputs of parts of a batch along ``dim``."""

    def join(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], tuple):
            return tuple(map(join, zip(*parts)))
        return None if parts[0] is None else torch.cat(list(parts), dim)

    return SinkhornOutput(*map(join, zip(*outputs)))


def cached_elements() -> int:
    """Return the number of float32 costs that the caches of the CPU threads hold, 4 MiB a thread."""
    return 2**20 * torch.get_num_threads()


def solve(
    cost: Tensor,
    row_mask: Tensor | None,
    col_mask: Tensor | None,
    settings: SinkhornSettings,
    group: int,
    return_plan: bool,
    all_reduce_sum: Callable[[Tensor], Tensor] | None,
) -> SinkhornOutput:
    """Solve the problems of ``sinkhorn``, flattened and transposed; ``group`` consecutive problems stop together.

    Masks are bool (P, 1, J) and (P, 1, L); costs (P, L, J) have any values on masked entries.
    """

    def solve_part(index: slice | Tensor, settings: SinkhornSettings) -> SinkhornOutput:
        row, col = (None if mask is None else mask[index] for mask in (row_mask, col_mask))
        return solve(cost[index], row, col, settings, group, return_plan, all_reduce_sum)

    if cost.device.type == "cpu" and not torch.is_grad_enabled():
        size = group * max(1, cached_elements() // (group * cost.shape[1:].numel()))
        if size < len(cost):
            return concatenate([solve_part(slice(i, i + size), settings) for i in range(0, len(cost), size)])
    # Masked entries have exponent 0 and weight 0. The shift by the row minimum changes neither plan nor potentials, so
    # it is a constant to autograd.
    cost = cost.contiguous() if row_mask is None else cost.contiguous().masked_fill(~row_mask, 0.0)
    valid = cost.detach() if col_mask is None else cost.detach().masked_fill(~col_mask.mT, torch.inf)
    shift = valid.amin(1, keepdim=True)  # (P, 1, J)
    cost = cost if col_mask is None else torch.where(col_mask.mT, cost, shift)
    exponent = (shift - cost).mul_(1.0 / settings.lam)

    log = settings.scaling == "log"
    largest = -exponent.detach().amin((1, 2)).view(-1, group).amin(1)  # (groups,); NaN and infinity are too large
    fits = largest <= KERNEL_LIMIT
    if not bool(fits.all()):
        check_finite("cost", cost)
        check_resolution(largest.max(), settings.lam)
        if settings.scaling == "kernel":
            raise ValueError(
                f"scaling is 'kernel' but the largest (cost - row minimum) / lam is {float(largest.max()):.4g}; "
                f"allowed: at most {KERNEL_LIMIT:g}, or scaling 'auto' or 'log'"
            )
        if not log and bool(fits.any()):  # each group with the scaling that fits it
            fits = fits.repeat_interleave(group)
            parts = [chosen.nonzero().squeeze(1) for chosen in (fits, ~fits)]
            solved = [solve_part(i, replace(settings, scaling=name)) for i, name in zip(parts, ("kernel", "log"))]
            order = torch.cat(parts).argsort()
            return concatenate(solved).map(lambda x: x[order])
        log = True

    u, v = (
        cost.new_full((1, 1, size), 1.0 / size) if mask is None else mask / mask.sum(2, keepdim=True, dtype=cost.dtype)
        for mask, size in ((row_mask, cost.shape[2]), (col_mask, cost.shape[1]))
    )
    matrix = Matrix(exponent, log)
    r, c, total, iterations, converged = iterate(matrix, u, v, shift / settings.lam, settings, group, all_reduce_sum)
    f = settings.lam * matrix.logarithm(r, row_mask) + shift
    g = settings.lam * matrix.logarithm(c, col_mask)
    plan = matrix.plan(r, c, v) if return_plan or log else None
    if plan is not None and log:
        row_sums, distance = plan.detach().sum(1, keepdim=True), (plan * cost).sum((1, 2))
        entropy = torch.special.entr(plan.detach()).sum((1, 2))
    else:
        row_sums, distance = (r * total).detach(), matrix.average(r, c, cost)
        with torch.no_grad():  # ln plan = (f + g - cost) / lam
            potential = torch.linalg.vecdot(row_sums, f) + torch.linalg.vecdot(v, g)  # (P, 1)
            entropy = (distance - potential.squeeze(1)) / settings.lam
    error = (row_sums - u).abs_().sum((1, 2))
    if log and settings.stop == "marginal":  # the stop rule read row sums with the rounding errors of logarithms
        converged = converged & (error <= 1.1 * settings.tol)
    return SinkhornOutput(
        plan.mT if return_plan and plan is not None else None,
        distance,
        (f.squeeze(1), g.squeeze(1)),
        iterations.repeat_interleave(group),
        error,
        converged.repeat_interleave(group),
        entropy,
    )


def iterate(
    matrix: Matrix,
    u: Tensor,
    v: Tensor,
    log_shift: Tensor,
    settings: SinkhornSettings,
    group: int,
    all_reduce_sum: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Alternate r = u / (K c), c = v / (K' r) from c = 1; r and c of a group stay constant after it stops.

    Without masks the weights are (1, 1, J) and (1, 1, L). The rows of K are shifted by log_shift (P, 1, J), row minima
    / lam: the tolerance of ``change`` applies to exp(log_shift) r.

    Returns:
        r (P, 1, J), c (P, 1, L) and K c (P, 1, J), or their logarithms; iterations and converged (groups,).
    """

    def group_sum(x: Tensor) -> Tensor:
        total = x.sum((1, 2)).view(-1, group).sum(1)
        return all_reduce_sum(total) if all_reduce_sum else total

    change = settings.stop == "change"
    check_every = 1 if u.device.type == "cpu" else 4  # iterations between checks to end the loop, each a GPU sync
    with torch.no_grad():
        before, unshift = (u > 0).to(u.dtype) if change else u, matrix.from_log(log_shift) if change else log_shift
        limit = settings.tol * (group_sum(before.expand_as(log_shift)) if change else 1.0)
    c = matrix.from_log((v > 0).to(v.dtype).log()).expand(len(log_shift), -1, -1)  # 1, and 0 where the weight is 0
    total = matrix.rows(c)
    running = torch.ones(len(log_shift) // group, dtype=torch.bool, device=u.device)
    iterations = torch.zeros_like(running, dtype=torch.int64)
    all_running = True
    end: tuple[Tensor, ...] = ()
    for step in range(1, settings.max_iter + 1):
        r = matrix.divide(u, total)
        c = matrix.divide(v, matrix.columns(r))
        total = matrix.rows(c)  # K c, for the row sums now and for the next r
        iterations += running
        if all_running:
            end = (r, c, total)
        else:
            problems = running.repeat_interleave(group).view(-1, 1, 1)
            end = tuple(torch.where(problems, now, old) for now, old in zip((r, c, total), end))
        if settings.tol == 0:
            continue
        with torch.no_grad():
            now = matrix.product(r, unshift if change else total)  # r without the shift, or the row sums
            error = group_sum((now - before).abs_())
            running = running & ~(error < limit if change else error <= limit)
            before = now if change else u
        left = int(running.sum()) if step % check_every == 0 else None
        if left == 0:
            break
        all_running = left == len(running)
    r, c, total = end
    return r, c, total, iterations, ~running
