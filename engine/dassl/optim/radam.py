"""RAdam under Dassl's import path."""

from collections.abc import Iterable
from typing import Any

import torch


class RAdam(torch.optim.RAdam):
    """RAdam (Liu et al. 2020, arXiv 1908.03265) as Dassl's: decoupled weight decay, SGD with momentum while N_sma < 5.

    Raises:
        ValueError: ``degenerated_to_sgd`` is False: only True, these first steps of SGD, is offered.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        degenerated_to_sgd: bool = True,
    ) -> None:
        if not degenerated_to_sgd:
            raise ValueError("degenerated_to_sgd is False; this engine's RAdam has True only")
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)
