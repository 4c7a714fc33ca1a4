"""The registry of datasets."""

from typing import Any

from dassl.utils import Registry
from yacs.config import CfgNode

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> Any:
    """Return the registered dataset ``cfg.DATASET.NAME``; raise ValueError if the name is unknown."""
    return DATASET_REGISTRY.build(cfg.DATASET.NAME, cfg, verbose=cfg.VERBOSE)
