"""The config tree: defaults of Dassl 0.6.3, merged from YAML files and command lines by yacs."""

from __future__ import annotations

from yacs.config import CfgNode as _YacsNode

from .defaults import DEFAULTS
from .node import ConfigKeyError, RootConfig

__all__ = ["ConfigKeyError", "RootConfig", "clean_cfg", "get_cfg_default"]


def get_cfg_default() -> RootConfig:
    """Return a fresh config with every default value, to be extended and merged into."""
    return RootConfig(DEFAULTS)  # copies the defaults


def clean_cfg(cfg: _YacsNode, trainer: str) -> None:
    """Drop the nodes of all other trainers, so that a printed config shows what is in use.

    Args:
        cfg: config, changed in place.
        trainer: name of the trainer whose node stays.
    """
    for key in [key for key in cfg.TRAINER if key not in ("NAME", trainer.upper())]:
        cfg.TRAINER.pop(key)
