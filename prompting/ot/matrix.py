"""The kernel of the Sinkhorn iteration and its scalings, as values or as logarithms; shapes as in ``solver``."""

import torch
from torch import Tensor


class Matrix:
    """The kernel K = exp(exponent) (P, L, J) and its products with scalings r (P, 1, J) and c (P, 1, L).

    With ``log``, log K is stored, and all scalings are logarithms. They neither under- nor overflow, however small
    lambda is; with masks they hold -inf.
    """

    def __init__(self, exponent: Tensor, log: bool) -> None:
        self.values = exponent if log else exponent.exp_()  # (P, L, J)
        self.log = log

    def from_log(self, logarithm: Tensor) -> Tensor:
        """Return a scaling in the stored form, given its logarithm."""
        return logarithm if self.log else logarithm.exp()

    def logarithm(self, r: Tensor, mask: Tensor | None) -> Tensor:
        """Return log r, with 0 on masked entries, so that autograd never differentiates log 0."""
        r = r if mask is None else r.where(mask, 0.0 if self.log else 1.0)
        return r if self.log else r.log()

    def rows(self, c: Tensor) -> Tensor:
        """Return K c, (P, 1, J)."""
        return torch.logsumexp(self.values + c.mT, 1, keepdim=True) if self.log else torch.bmm(c, self.values)

    def columns(self, r: Tensor) -> Tensor:
        """Return K' r, (P, 1, L)."""
        return torch.logsumexp(self.values + r, 2, keepdim=True).mT if self.log else torch.bmm(r, self.values.mT)

    def divide(self, weights: Tensor, total: Tensor) -> Tensor:
        """Return the scaling weights / total."""
        return weights.log() - total if self.log else weights / total

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the product of two scalings as a value, whatever the stored form."""
        return (x + y).exp() if self.log else x * y

    def plan(self, r: Tensor, c: Tensor, v: Tensor) -> Tensor:
        """Return diag(r) K diag(c), (P, L, J); with ``log`` from a softmax, whose column sums are v up to rounding."""
        return (self.values + r).softmax(2) * v.mT if self.log else self.values * r * c.mT

    def average(self, r: Tensor, c: Tensor, cost: Tensor) -> Tensor:
        """Return <plan, cost>, (P,), from a kernel without ``log``; it overwrites K without autograd: call it last."""
        weighted = self.values * cost if torch.is_grad_enabled() else self.values.mul_(cost)
        return (torch.bmm(c, weighted) * r).sum((1, 2))
