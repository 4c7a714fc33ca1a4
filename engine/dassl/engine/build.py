"""Trainers by name."""

from __future__ import annotations

import logging
from typing import Any

from dassl.utils import Registry, check_availability
from yacs.config import CfgNode

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """Return the trainer ``cfg.TRAINER.NAME``, with data and model built."""
    check_availability(cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        logging.getLogger(__name__).info("Loading trainer: %s", cfg.TRAINER.NAME)
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
