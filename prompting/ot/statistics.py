"""Statistics of a head's transport problems: convergence, iterations and entropy."""

from collections.abc import Callable

import torch
from torch import Tensor

from .solver import SinkhornOutput


class TransportStatistics:
    """Sums over problems, per level. Adding does not synchronise with a GPU; ``read`` does."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, level: str, solved: SinkhornOutput, uniform: Tensor | float) -> None:
        """Add the problems of one call of the solver; ``uniform`` is the mean entropy of their uniform plans."""
        values = (torch.ones_like(solved.entropy), ~solved.converged, solved.iterations, solved.entropy)
        sums = torch.stack([value.sum(dtype=torch.float64) for value in values])
        sums = torch.cat([sums, uniform * sums[:1]])
        self._sums[level] = self._sums[level] + sums if level in self._sums else sums

    def read(self, all_reduce_sum: Callable[[Tensor], Tensor] | None = None) -> dict[str, dict[str, float]]:
        """Return the statistics per level, without levels that had no problems, and reset them.

        Args:
            all_reduce_sum: sums a tensor over processes, all of which must then call ``read``.

        Returns:
            Per level ("prompt", "token"): ``problems``, ``not_converged`` (numbers of problems), ``iterations``,
            ``entropy`` and ``uniform_entropy``, that of uniform plans (means over problems; nats).
        """
        found = {}
        for level in ("prompt", "token"):
            sums = self._sums.pop(level, torch.zeros(5, dtype=torch.float64)).cpu()
            problems, failed, *values = (all_reduce_sum(sums) if all_reduce_sum else sums).tolist()
            if problems:
                means = dict(zip(("iterations", "entropy", "uniform_entropy"), (v / problems for v in values)))
                found[level] = {"problems": int(problems), "not_converged": int(failed), **means}
        return found
