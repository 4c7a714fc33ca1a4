"""The Sinkhorn iteration itself, in either domain, for groups of problems that stop by themselves.

Shapes: G groups of Q problems; weights u (G, Q, J) and v (G, Q, L), zero on masked entries; scaled costs (G, Q, J, L).
A weight of zero makes its scaling zero from the first iteration on, so masked entries need no other treatment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def ask_every(device: torch.device) -> int:
    """How many iterations lie between two looks at whether everything has stopped.

    Off the CPU a look waits for the device. What has stopped is frozen there at once, so a look changes no result.
    """
    return 1 if device.type == "cpu" else 4


class KernelDomain:
    """Scalings r, c as they are: K = exp(-scaled), plan = diag(r) K diag(c)."""

    def __init__(self, scaled: Tensor) -> None:
        self.kernel = torch.exp(-scaled)

    def lift(self, logarithm: Tensor) -> Tensor:
        """Turn a logarithm into this domain's representation."""
        return torch.exp(logarithm)

    def rows(self, c: Tensor) -> Tensor:
        """K c, (G, Q, J)."""
        return torch.matmul(self.kernel, c.unsqueeze(-1)).squeeze(-1)

    def columns(self, r: Tensor) -> Tensor:
        """K' r, (G, Q, L)."""
        return torch.matmul(r.unsqueeze(-2), self.kernel).squeeze(-2)

    def fit(self, weights: Tensor, total: Tensor) -> Tensor:
        """The scaling that brings ``total`` to ``weights``."""
        return weights / total

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """x * y as plain numbers."""
        return x * y

    def plan(self, r: Tensor, c: Tensor) -> Tensor:
        """The plan, (G, Q, J, L)."""
        return r.unsqueeze(-1) * self.kernel * c.unsqueeze(-2)

    def logarithm(self, scaling: Tensor, weights: Tensor) -> Tensor:
        """The scaling's logarithm, zero where the weight is zero (so that no gradient meets log 0)."""
        return torch.log(torch.where(weights > 0, scaling, 1.0))


class LogDomain:
    """The same with log r, log c in place of r, c: nothing under- or overflows however small lambda is."""

    def __init__(self, scaled: Tensor) -> None:
        self.scaled = scaled

    def lift(self, logarithm: Tensor) -> Tensor:
        """Turn a logarithm into this domain's representation."""
        return logarithm

    def rows(self, c: Tensor) -> Tensor:
        """log(K c), (G, Q, J)."""
        return torch.logsumexp(c.unsqueeze(-2) - self.scaled, dim=-1)

    def columns(self, r: Tensor) -> Tensor:
        """log(K' r), (G, Q, L)."""
        return torch.logsumexp(r.unsqueeze(-1) - self.scaled, dim=-2)

    def fit(self, weights: Tensor, total: Tensor) -> Tensor:
        """The log scaling that brings ``total`` to ``weights``."""
        return torch.log(weights) - total

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of what x and y stand for, as plain numbers."""
        return torch.exp(x + y)

    def plan(self, r: Tensor, c: Tensor) -> Tensor:
        """The plan, (G, Q, J, L)."""
        return torch.exp(r.unsqueeze(-1) + c.unsqueeze(-2) - self.scaled)

    def logarithm(self, scaling: Tensor, weights: Tensor) -> Tensor:
        """The log scaling, zero where the weight is zero."""
        return torch.where(weights > 0, scaling, 0.0)


class Scalings(NamedTuple):
    """Where the iteration ended: r, c in the domain's representation, and how each group got there."""

    r: Tensor  # (G, Q, J)
    c: Tensor  # (G, Q, L)
    iterations: Tensor  # (G,) int64
    stopped: Tensor  # (G,) bool: by the tolerance, not by max_iter


def iterate(
    domain: KernelDomain | LogDomain, u: Tensor, v: Tensor, offset: Tensor, *, max_iter: int, tol: float, stop: str
) -> Scalings:
    """Alternate r = u / (K c), c = v / (K' r) from c = 1 until each group of problems stops, then freeze that group.

    Args:
        domain: holds the kernel or the scaled cost of all problems.
        u, v: weights (G, Q, J), (G, Q, L), zero on masked entries.
        offset: (G, Q, J) logarithm by which the rows of the domain's kernel were scaled up; the ``change`` rule looks
            at the unscaled r, since its tolerance is absolute.
        stop: ``marginal``: worst |r * (K c) - u|_1 in the group is <= tol (the columns are met exactly by the last
            half step); ``change``: mean |r - r_before| over the group's valid rows is < tol, r starting at ones.
    """
    r, c = (domain.lift(torch.log((w > 0).to(w.dtype))) for w in (u, v))
    total = domain.rows(c)
    unscale, valid_rows = domain.lift(offset), (u > 0).sum((1, 2))
    r_before = (u > 0).to(u.dtype)
    active = torch.ones(u.shape[0], dtype=torch.bool, device=u.device)
    iterations = torch.zeros_like(active, dtype=torch.int64)
    look = ask_every(u.device)
    for step in range(1, max_iter + 1):
        new_r = domain.fit(u, total)
        new_c = domain.fit(v, domain.columns(new_r))
        new_total = domain.rows(new_c)  # gives the row marginals now and the next r
        with torch.no_grad():
            if stop == "marginal":
                small = (domain.product(new_r, new_total) - u).abs().sum(-1).amax(-1) <= tol
            else:
                r_after = domain.product(new_r, unscale)
                small = (r_after - r_before).abs().sum((1, 2)) / valid_rows < tol
                r_before = r_after
            keep = active[:, None, None]
            iterations = iterations + active
            active = active & ~small
        r, c, total = torch.where(keep, new_r, r), torch.where(keep, new_c, c), torch.where(keep, new_total, total)
        if step % look == 0 and not bool(active.any()):
            break
    return Scalings(r, c, iterations, ~active)
