"""The registry of trainers."""

from typing import Any

from dassl.config import check_values
from dassl.utils import Registry
from yacs.config import CfgNode

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """Return the trainer ``cfg.TRAINER.NAME``; raise ValueError if it, or a value of the config, is not allowed."""
    check_values(cfg)
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, cfg, verbose=cfg.VERBOSE)
