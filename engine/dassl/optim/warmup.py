"""Warm-up schedules that wrap another schedule, for plugins that build them by hand.

``build_lr_scheduler`` does not use them: its schedules are functions of the epoch.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class _Warmup(LRScheduler):
    """Sets the rate for ``warmup_epoch`` epochs, then steps ``successor``, whose count of epochs starts there.

    Subclasses define ``warmup_lr``, which returns the rate of a group in the warm-up epoch ``last_epoch``.
    ``verbose`` is accepted for Dassl's signature and not used; torch >= 2.7 has no such argument.
    """

    def __init__(
        self, optimizer: Optimizer, successor: Any, warmup_epoch: int, last_epoch: int = -1, verbose: bool = False
    ) -> None:
        self.successor, self.warmup_epoch = successor, warmup_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rate of each group."""
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return [self.warmup_lr(lr) for lr in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Advance by one epoch."""
        if self.last_epoch < self.warmup_epoch:
            super().step(epoch)
        else:
            self.successor.step(epoch)
            self._last_lr = self.successor.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values; Dassl's holds the successor as an object."""
        return {**super().state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state, also one that holds the successor as an object."""
        saved = state_dict["successor"]
        kept = saved if isinstance(saved, dict) else {k: v for k, v in vars(saved).items() if k != "optimizer"}
        self.successor.load_state_dict(kept)
        super().load_state_dict({**state_dict, "successor": self.successor})


class ConstantWarmupScheduler(_Warmup):
    """Rate ``cons_lr`` for ``warmup_epoch`` epochs, then ``successor``."""

    def __init__(
        self, optimizer: Optimizer, successor: Any, warmup_epoch: int, cons_lr: float, *args: Any, **options: Any
    ) -> None:
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, *args, **options)

    def warmup_lr(self, base_lr: float) -> float:
        """Return ``cons_lr``."""
        return self.cons_lr


class LinearWarmupScheduler(_Warmup):
    """Rate ``min_lr`` in the first epoch, then L e / ``warmup_epoch`` in epoch e, then ``successor``."""

    def __init__(
        self, optimizer: Optimizer, successor: Any, warmup_epoch: int, min_lr: float, *args: Any, **options: Any
    ) -> None:
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, *args, **options)

    def warmup_lr(self, base_lr: float) -> float:
        """Return the rate of the epoch."""
        return base_lr * self.last_epoch / self.warmup_epoch if self.last_epoch else self.min_lr
