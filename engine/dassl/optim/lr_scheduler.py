"""Learning-rate schedules as functions of the epoch.

torch's schedulers compute a rate from the previous one, so other changes of the optimizer and restoring disturb them.
These give the same values from one number, the count of finished epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from yacs.config import CfgNode

from .warmup import ConstantWarmupScheduler, LinearWarmupScheduler  # noqa: F401  plugins import them from here

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
AVAI_WARMUPS = ["constant", "linear"]

Decay = Callable[[int, int], float]


class EpochScheduler:
    r"""Sets every parameter group's rate from e, the number of finished epochs:.

    .. math:: lr(e) = \text{warmup}(e, L) \; (e < W), \qquad lr(e) = L \cdot \text{decay}(s, s + e - W) \; (e \ge W)

    with L the initial rate of the group, W the number of warm-up epochs (0: none) and s the first epoch of the decay:
    0, or W if ``WARMUP_RECOUNT`` is False.

    Args:
        optimizer: the present rates of its groups are L.
        decay: (start, now) -> factor, which is 1 at now = start.
        warmup_epoch: W >= 0.
        warmup: (e, L) -> rate during warm-up.
        start: s >= 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        decay: Decay,
        warmup_epoch: int = 0,
        warmup: Callable[[int, float], float] | None = None,
        start: int = 0,
    ) -> None:
        self.optimizer = optimizer
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._decay, self._warmup, self._warmup_epoch, self._start = decay, warmup, warmup_epoch, start
        self._apply()

    def lr_at(self, epoch: int) -> list[float]:
        """Return each group's rate after ``epoch`` epochs."""
        if epoch < self._warmup_epoch and self._warmup is not None:
            return [self._warmup(epoch, lr) for lr in self.base_lrs]
        factor = self._decay(self._start, self._start + epoch - self._warmup_epoch)
        return [lr * factor for lr in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Advance by one epoch (or go to ``epoch``) and set the rates."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._apply()

    def get_last_lr(self) -> list[float]:
        """Return the present rate of each group."""
        return list(self._last_lr)

    def _apply(self) -> None:
        self._last_lr = self.lr_at(self.last_epoch)
        for group, lr in zip(self.optimizer.param_groups, self._last_lr):
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Return the number of finished epochs and the initial rates of the groups."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the epoch of a saved state of this class or of a scheduler of torch or Dassl.

        Only the epoch is read: the rates follow from the settings of this scheduler.

        Args:
            state_dict: has ``last_epoch``; Dassl's warm-up schedulers count later epochs in ``successor``.
        """
        done = int(state_dict["last_epoch"])
        successor = state_dict.get("successor")
        if successor is not None and done >= self._warmup_epoch:
            done = self._warmup_epoch + int(successor.last_epoch) - self._start
        self.last_epoch = done
        self._apply()


def _steps(gamma: float, milestones: Callable[[int], int]) -> Decay:
    return lambda start, now: gamma ** (milestones(now) - milestones(start))


def _cosine(max_epoch: int) -> Decay:
    def height(epoch: int) -> float:
        return 1 + math.cos(math.pi * epoch / max_epoch)

    def decay(start: int, now: int) -> float:
        # torch's recursive cosine has factor 1 at `start` and follows the ratios of the curve; after its zero at
        # max_epoch it no longer depends on the start
        return height(now) / height(start if now <= max_epoch and start < max_epoch else 0)

    return decay


def _build_decay(cfg: CfgNode) -> Decay:
    name, stepsize = cfg.LR_SCHEDULER, cfg.STEPSIZE
    if name not in AVAI_SCHEDS:
        raise ValueError(f"scheduler must be one of {AVAI_SCHEDS}, but got {name}")
    if name == "cosine":
        return _cosine(max(cfg.MAX_EPOCH, 1))
    if name == "multi_step":
        if not isinstance(stepsize, (list, tuple)):
            raise TypeError(f"For multi_step lr_scheduler, stepsize must be a list, but got {type(stepsize)}")
        return _steps(cfg.GAMMA, lambda epoch: sum(1 for milestone in stepsize if milestone <= epoch))
    if isinstance(stepsize, (list, tuple)):
        stepsize = stepsize[-1]
    if not isinstance(stepsize, int):
        raise TypeError(f"For single_step lr_scheduler, stepsize must be an integer, but got {type(stepsize)}")
    size = stepsize if stepsize > 0 else cfg.MAX_EPOCH
    return _steps(cfg.GAMMA, lambda epoch: epoch // size)


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> EpochScheduler:
    """Return the schedule of ``cfg.OPTIM``; call ``step()`` once per epoch.

    Args:
        optimizer: optimizer with its initial rates.
        optim_cfg: the node ``OPTIM``.

    Raises:
        ValueError: unknown schedule or warm-up.
        TypeError: the schedule does not accept the type of ``STEPSIZE``.
    """
    decay = _build_decay(optim_cfg)
    epochs = optim_cfg.WARMUP_EPOCH
    if epochs <= 0:
        return EpochScheduler(optimizer, decay)
    if optim_cfg.WARMUP_TYPE not in AVAI_WARMUPS:
        raise ValueError(f"warm-up must be one of {AVAI_WARMUPS}, but got {optim_cfg.WARMUP_TYPE}")
    constant, lowest = optim_cfg.WARMUP_CONS_LR, optim_cfg.WARMUP_MIN_LR
    if optim_cfg.WARMUP_TYPE == "constant":
        warmup: Callable[[int, float], float] = lambda epoch, lr: constant  # noqa: E731
    else:
        warmup = lambda epoch, lr: lr * epoch / epochs if epoch else lowest  # noqa: E731
    return EpochScheduler(optimizer, decay, epochs, warmup, start=0 if optim_cfg.WARMUP_RECOUNT else epochs)
