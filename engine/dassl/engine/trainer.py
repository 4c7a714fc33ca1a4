"""The trainers under Dassl's import path."""

from __future__ import annotations

from typing import Any

from .base import TrainerBase
from .loops import TrainerX, TrainerXU
from .net import SimpleNet
from .reexports import find
from .simple import SimpleTrainer

__all__ = ["SimpleNet", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]


def __getattr__(name: str) -> Any:
    return find(name)
