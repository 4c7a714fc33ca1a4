"""The trainers under Dassl's import path."""

from __future__ import annotations

from .base import TrainerBase
from .loops import TrainerX, TrainerXU
from .net import SimpleNet
from .simple import SimpleTrainer

__all__ = ["SimpleNet", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]
