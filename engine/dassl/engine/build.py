"""The registry of trainers."""

from typing import Any

from dassl.utils import Registry
from yacs.config import CfgNode

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """Return the registered trainer ``cfg.TRAINER.NAME``; raise ValueError if the name is unknown."""
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, cfg, verbose=cfg.VERBOSE)
