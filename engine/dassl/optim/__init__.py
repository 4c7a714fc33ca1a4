"""Optimizers and learning-rate schedules from ``cfg.OPTIM``."""

from .lr_scheduler import AVAI_SCHEDS, EpochScheduler, build_lr_scheduler
from .optimizer import AVAI_OPTIMS, build_optimizer

__all__ = ["AVAI_OPTIMS", "AVAI_SCHEDS", "EpochScheduler", "build_lr_scheduler", "build_optimizer"]
