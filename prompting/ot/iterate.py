"""The Sinkhorn iteration itself, in either domain, for groups of problems that stop by themselves.

Shapes: P problems, of which each ``group`` neighbours stop together (G groups); weights u (P, 1, J), v (P, 1, L), zero
on masked entries; exponents -(cost - row minimum) / lam as (P, L, J). With J, the longer side as a rule, last, both
products of an iteration are a row vector times a matrix, the form that batched matrix products do fastest on a CPU.
A weight of zero makes its scaling zero from the first iteration on, so masked entries need no other treatment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Stopped groups go on being computed, to no effect, until this share of the others is left: leaving costs a copy.
DENSE = 0.75


def ask_every(device: torch.device) -> int:
    """How many iterations lie between two looks at what has stopped.

    Off the CPU a look waits for the device. What has stopped is held as it was then, so a look changes no result.
    """
    return 1 if device.type == "cpu" else 4


class KernelDomain:
    """Scalings r, c as they are: K = exp(exponent), plan = diag(r) K diag(c). Takes over the exponents' memory."""

    def __init__(self, exponent: Tensor) -> None:
        self.matrix = exponent.exp_()
        self.across = self.matrix.mT

    def take(self, index: Tensor) -> KernelDomain:
        """The problems of ``index`` alone, copied."""
        part = object.__new__(KernelDomain)
        part.matrix = self.matrix.index_select(0, index)
        part.across = part.matrix.mT
        return part

    def lift(self, logarithm: Tensor) -> Tensor:
        """Turn a logarithm into this domain's representation."""
        return torch.exp(logarithm)

    def ones(self, weights: Tensor) -> Tensor:
        """Scalings of 1, of 0 where the weight is zero."""
        return weights.new_ones(weights.shape) if _unmasked(weights) else (weights > 0).to(weights.dtype)

    def rows(self, c: Tensor, out: Tensor | None = None) -> Tensor:
        """K c, (P, 1, J)."""
        return torch.bmm(c, self.matrix) if out is None else torch.bmm(c, self.matrix, out=out)

    def columns(self, r: Tensor, out: Tensor | None = None) -> Tensor:
        """K' r, (P, 1, L)."""
        return torch.bmm(r, self.across) if out is None else torch.bmm(r, self.across, out=out)

    def fit(self, weights: Tensor, total: Tensor, out: Tensor | None = None) -> Tensor:
        """The scaling that brings ``total`` to ``weights``."""
        return torch.div(weights, total, out=out)

    def product(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """x * y as plain numbers."""
        return torch.mul(x, y, out=out)

    def plan(self, r: Tensor, c: Tensor) -> Tensor:
        """The plan, (P, L, J), in the matrix's own memory where nothing is recorded: the last thing asked for."""
        if _recording(self.matrix):
            return self.matrix * r * c.mT
        return self.matrix.mul_(r).mul_(c.mT)

    def average(self, r: Tensor, c: Tensor, values: Tensor) -> Tensor:
        """<plan, values> (P,) for values (P, L, J), in the matrix's own memory: the last thing asked for."""
        return torch.bmm(c, self.matrix.mul_(values)).mul_(r).sum((1, 2))

    def logarithm(self, scaling: Tensor, weights: Tensor) -> Tensor:
        """The scaling's logarithm, zero where the weight is zero (so that no gradient meets log 0)."""
        return torch.log(scaling if _unmasked(weights) else torch.where(weights > 0, scaling, 1.0))


class LogDomain:
    """The same with log r, log c in place of r, c: nothing under- or overflows however small lambda is."""

    def __init__(self, exponent: Tensor) -> None:
        self.matrix = exponent

    def take(self, index: Tensor) -> LogDomain:
        """The problems of ``index`` alone, copied."""
        return LogDomain(self.matrix.index_select(0, index))

    def lift(self, logarithm: Tensor) -> Tensor:
        """Turn a logarithm into this domain's representation."""
        return logarithm

    def ones(self, weights: Tensor) -> Tensor:
        """Log scalings of 1, of 0 where the weight is zero."""
        return torch.log((weights > 0).to(weights.dtype))

    def rows(self, c: Tensor, out: Tensor | None = None) -> Tensor:
        """log(K c), (P, 1, J)."""
        return torch.logsumexp(self.matrix + c.mT, dim=-2, keepdim=True, out=out)

    def columns(self, r: Tensor, out: Tensor | None = None) -> Tensor:
        """log(K' r), (P, 1, L)."""
        return torch.logsumexp(self.matrix.mT + r.mT, dim=-2, keepdim=True, out=out)

    def fit(self, weights: Tensor, total: Tensor, out: Tensor | None = None) -> Tensor:
        """The log scaling that brings ``total`` to ``weights``."""
        return torch.sub(torch.log(weights), total, out=out)

    def product(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """The product of what x and y stand for, as plain numbers."""
        return torch.exp(x + y, out=out)

    def plan(self, r: Tensor, c: Tensor) -> Tensor:
        """The plan, (P, L, J)."""
        return torch.exp(self.matrix + r + c.mT)

    def average(self, r: Tensor, c: Tensor, values: Tensor) -> Tensor:
        """<plan, values> (P,) for values (P, L, J)."""
        return self.plan(r, c).mul_(values).sum((1, 2))

    def logarithm(self, scaling: Tensor, weights: Tensor) -> Tensor:
        """The log scaling, zero where the weight is zero."""
        return scaling if _unmasked(weights) else torch.where(weights > 0, scaling, 0.0)


class Scalings(NamedTuple):
    """Where the iteration ended: r, c in the domain's representation, and how each group got there."""

    r: Tensor  # (P, 1, J)
    c: Tensor  # (P, 1, L)
    iterations: Tensor  # (G,) int64
    stopped: Tensor  # (G,) bool: by the tolerance, not by max_iter
    gap: Tensor  # (G,) what the stop rule compared with the tolerance, summed over the group


def iterate(
    domain: KernelDomain | LogDomain,
    u: Tensor,
    v: Tensor,
    offset: Tensor,
    *,
    group: int,
    max_iter: int,
    tol: float,
    stop: str,
    pooled: Callable[[Tensor], Tensor] | None = None,
) -> Scalings:
    """Alternate r = u / (K c), c = v / (K' r) from c = 1 until each group of problems stops, and hold it so.

    Where autograd does not record, everything is written in place, and stopped groups leave the working arrays.

    Args:
        domain: holds the kernel or the exponents of all problems.
        u, v: weights (P, 1, J), (P, 1, L), zero on masked entries.
        offset: (P, 1, J) logarithm by which the rows of the domain's kernel were scaled up; the ``change`` rule looks
            at the unscaled r, since its tolerance is absolute.
        group: neighbouring problems that stop together; 1 for ``marginal``.
        stop: ``marginal``: |r * (K c) - u|_1 <= tol (the columns are met exactly by the last half step);
            ``change``: mean |r - r_before| over the group's valid rows is < tol, r starting at ones.
        pooled: as for ``sinkhorn``.
        max_iter, tol: as for ``sinkhorn``. With tol = 0 nothing stops before max_iter, so nothing is looked at.
    """
    recording, look = _recording(domain.matrix), ask_every(u.device)
    groups = u.shape[0] // group
    limit, before, unscale = torch.full((groups,), tol, dtype=u.dtype, device=u.device), u, u
    passes = torch.le if stop == "marginal" else torch.lt
    if stop == "change":
        valid = (u > 0).to(u.dtype, memory_format=torch.contiguous_format)
        # The most that a group's summed gap may be; below zero, which no gap is, for groups that have stopped.
        rows = valid.view(groups, -1).sum(-1)
        limit, before, unscale = limit * (pooled(rows) if pooled else rows), valid, domain.lift(offset)
    held_r, held_c = domain.ones(u), domain.ones(v)
    c = held_c if recording else held_c.clone()
    total = domain.rows(c)
    r, spare = torch.empty_like(total), torch.empty_like(total)
    active = torch.ones(groups, dtype=torch.bool, device=u.device)
    iterations, stopped, held_gap = torch.zeros_like(active, dtype=torch.int64), torch.zeros_like(active), limit
    ends: tuple[Tensor, ...] = ()
    untouched = True  # by the choice between what is held and what is new
    live = active  # once ``ends`` is set: which of its groups the working arrays hold
    for step in range(1, max_iter + 1):
        r = domain.fit(u, total, None if recording else r)
        c = domain.fit(v, domain.columns(r, None if recording else c), None if recording else c)
        total = domain.rows(c, None if recording else total)  # gives the row marginals now and the next r
        last = step == max_iter
        if tol == 0 and not last:
            if stop == "change" and step == max_iter - 1:
                with torch.no_grad():
                    before = domain.product(r, unscale, before)
            continue
        with torch.no_grad():
            if stop == "marginal":
                gap = domain.product(r, total, spare).sub_(u)
            else:
                after = domain.product(r, unscale, spare)
                gap = torch.sub(before, after, out=before)
                before, spare = after, gap
            gap = gap.abs_().view(len(active), -1).sum(-1)
            gap = pooled(gap) if pooled else gap
            small = passes(gap, limit)
        if not last and look == 1 and not bool(small.any()):
            continue
        if last and untouched:
            held_r, held_c, held_gap, stopped = r, c, gap, small
            iterations.fill_(step)
            break
        untouched = False
        leaving = active if last else small
        stopped, iterations = stopped | small, torch.where(leaving, step, iterations)
        held_r, held_c = (_choose(leaving, new, held, recording) for new, held in ((r, held_r), (c, held_c)))
        held_gap = torch.where(leaving, gap, held_gap)
        active, limit = active & ~leaving, limit.masked_fill(leaving, -1.0)
        if last or step % look:
            continue
        left = int(active.sum())
        if left == 0:
            break
        if not recording and left <= DENSE * len(active):
            held = (held_r, held_c, iterations, stopped, held_gap)
            ends = _store(ends, live, held, group)
            index = active.nonzero().squeeze(-1)
            live = live[index] if live.dtype == torch.int64 else index
            problems = _spread(index, group)
            domain = domain.take(problems)
            u, v, unscale, before, r, spare, c, total, held_r, held_c = (
                _take(x, problems) for x in (u, v, unscale, before, r, spare, c, total, held_r, held_c)
            )
            active, iterations, stopped, limit, held_gap = (
                x[index] for x in (active, iterations, stopped, limit, held_gap)
            )
    held = (held_r, held_c, iterations, stopped, held_gap)
    return Scalings(*(_store(ends, live, held, group) if ends else held))


def _unmasked(weights: Tensor) -> bool:
    """Whether all problems share one row of weights, as they do without masks."""
    return weights.stride(0) == 0


def _recording(matrix: Tensor) -> bool:
    return torch.is_grad_enabled() and matrix.requires_grad


def _choose(groups: Tensor, new: Tensor, old: Tensor, recording: bool) -> Tensor:
    """Rows of ``new`` for the True ``groups``, of ``old`` for the others; into ``old`` unless recording."""
    old = old.reshape(len(groups), -1)
    out = None if recording else old
    return torch.where(groups.unsqueeze(-1), new.reshape(old.shape), old, out=out).reshape(new.shape)


def _spread(index: Tensor, group: int) -> Tensor:
    """Indices of the problems of the groups in ``index``."""
    return (index.unsqueeze(-1) * group + torch.arange(group, device=index.device)).flatten()


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x[: len(index)] if _unmasked(x) else x.index_select(0, index)


def _store(ends: tuple[Tensor, ...], live: Tensor, held: tuple[Tensor, ...], group: int) -> tuple[Tensor, ...]:
    """Write what the working arrays hold to its places in ``ends`` (the first time they are one and the same)."""
    if not ends:
        return tuple(x.clone() for x in held)
    problems = _spread(live, group)
    return tuple(end.index_copy_(0, problems if i < 2 else live, x) for i, (end, x) in enumerate(zip(ends, held)))
