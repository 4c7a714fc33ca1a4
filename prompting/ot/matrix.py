"""The matrix of the Sinkhorn iteration and its scalings, as they are or as logarithms; shapes as in ``solver``."""

import torch
from torch import Tensor


class Matrix:
    """The kernel K = exp(exponent) with scalings r and c, or log K with log r and log c, and the products of both.

    Logarithms neither under- nor overflow, however small lambda is; with masks they hold -inf.
    """

    def __init__(self, exponent: Tensor, log: bool) -> None:
        self.values = exponent if log else exponent.exp_()  # (P, L, J)
        self.log = log

    def from_log(self, logarithm: Tensor) -> Tensor:
        """r (or log r) from its logarithm."""
        return logarithm if self.log else logarithm.exp()

    def logarithm(self, r: Tensor, mask: Tensor | None) -> Tensor:
        """The logarithm of r; 0 on masked entries, so that no gradient meets log 0."""
        r = r if mask is None else r.where(mask, 0.0 if self.log else 1.0)
        return r if self.log else r.log()

    def rows(self, c: Tensor) -> Tensor:
        """K c, (P, 1, J)."""
        return torch.logsumexp(self.values + c.mT, 1, keepdim=True) if self.log else torch.bmm(c, self.values)

    def columns(self, r: Tensor) -> Tensor:
        """K' r, (P, 1, L)."""
        return torch.logsumexp(self.values + r, 2, keepdim=True).mT if self.log else torch.bmm(r, self.values.mT)

    def divide(self, weights: Tensor, total: Tensor) -> Tensor:
        """The scaling weights / total."""
        return weights.log() - total if self.log else weights / total

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of two scalings, never its logarithm."""
        return (x + y).exp() if self.log else x * y

    def plan(self, r: Tensor, c: Tensor, v: Tensor) -> Tensor:
        """diag(r) K diag(c), (P, L, J); from logarithms, by a softmax, so that rounding leaves the column sums at v."""
        return (self.values + r).softmax(2) * v.mT if self.log else self.values * r * c.mT

    def average(self, r: Tensor, c: Tensor, cost: Tensor) -> Tensor:
        """<plan, cost>, (P,), of the kernel; without autograd it overwrites K, so it must come last."""
        weighted = self.values * cost if torch.is_grad_enabled() else self.values.mul_(cost)
        return (torch.bmm(c, weighted) * r).sum((1, 2))
