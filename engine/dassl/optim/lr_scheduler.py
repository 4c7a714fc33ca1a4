"""Learning-rate schedules as functions of the epoch.

torch's schedulers compute a rate from the previous one, so other changes of the optimizer and restoring disturb them.
These give the same values from one number, the count of finished epochs.
"""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from yacs.config import CfgNode

from .warmup import ConstantWarmupScheduler, LinearWarmupScheduler  # noqa: F401  plugins import them from here

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
AVAI_WARMUPS = ["constant", "linear"]


class EpochScheduler(LRScheduler):
    r"""Sets every parameter group's rate from e, the number of finished epochs:.

    .. math:: lr(e) = \text{warmup}(e, L) \; (e < W), \qquad lr(e) = L \cdot \text{decay}(s, s + e - W) \; (e \ge W)

    with L the initial rate of the group, W the number of warm-up epochs (0: none) and s the first epoch of the decay:
    0, or W if ``WARMUP_RECOUNT`` is False. decay(s, s) is 1.

    Args:
        optimizer: the present rates of its groups are L.
        cfg: the node ``OPTIM``.

    Raises:
        ValueError: unknown schedule or warm-up.
    """

    def __init__(self, optimizer: Optimizer, cfg: CfgNode) -> None:
        if cfg.LR_SCHEDULER not in AVAI_SCHEDS:
            raise ValueError(f"scheduler must be one of {AVAI_SCHEDS}, but got {cfg.LR_SCHEDULER}")
        self._cfg = cfg.clone()
        self._warmup_epoch = max(cfg.WARMUP_EPOCH, 0)
        if self._warmup_epoch and cfg.WARMUP_TYPE not in AVAI_WARMUPS:
            raise ValueError(f"warm-up must be one of {AVAI_WARMUPS}, but got {cfg.WARMUP_TYPE}")
        self._start = 0 if cfg.WARMUP_RECOUNT else self._warmup_epoch
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """Return each group's rate after ``last_epoch`` epochs."""
        epoch, warmup = self.last_epoch, self._warmup_epoch
        if epoch >= warmup:
            factor = self._decay(self._start, self._start + epoch - warmup)
            return [lr * factor for lr in self.base_lrs]
        if self._cfg.WARMUP_TYPE == "constant":
            return [self._cfg.WARMUP_CONS_LR for _ in self.base_lrs]
        return [lr * epoch / warmup if epoch else self._cfg.WARMUP_MIN_LR for lr in self.base_lrs]

    def _decay(self, start: int, now: int) -> float:
        cfg = self._cfg
        if cfg.LR_SCHEDULER == "cosine":
            # torch's recursive cosine has factor 1 at `start` and follows the ratios of the curve; after its zero at
            # `end` it no longer depends on the start
            end = max(cfg.MAX_EPOCH, 1)
            origin = start if now <= end and start < end else 0
            return (1 + math.cos(math.pi * now / end)) / (1 + math.cos(math.pi * origin / end))
        if cfg.LR_SCHEDULER == "multi_step":
            return cfg.GAMMA ** sum(start < milestone <= now for milestone in cfg.STEPSIZE)
        last = cfg.STEPSIZE[-1] if isinstance(cfg.STEPSIZE, (list, tuple)) else cfg.STEPSIZE
        size = last if last > 0 else cfg.MAX_EPOCH
        return cfg.GAMMA ** (now // size - start // size)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of finished epochs and the initial rates of the groups."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the epoch of a saved state of this class or of a scheduler of torch or Dassl.

        Only the epoch is read: the rates follow from the settings of this scheduler. Dassl's warm-up schedulers count
        later epochs in ``successor``.
        """
        done = int(state_dict["last_epoch"])
        successor = state_dict.get("successor")
        if successor is not None and done >= self._warmup_epoch:
            done = self._warmup_epoch + int(successor.last_epoch) - self._start
        self.last_epoch = done - 1
        self._initial_step()  # sets the rates; step() would ask for a step of the optimizer first


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> EpochScheduler:
    """Return the schedule of ``cfg.OPTIM``, see :class:`EpochScheduler`; call ``step()`` once per epoch."""
    return EpochScheduler(optimizer, optim_cfg)
