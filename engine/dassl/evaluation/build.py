"""The registry of evaluators."""

from typing import Any

from dassl.utils import Registry
from yacs.config import CfgNode

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """Return the registered evaluator ``cfg.TEST.EVALUATOR``; keyword arguments go to its constructor."""
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, cfg, verbose=cfg.VERBOSE, **kwargs)
