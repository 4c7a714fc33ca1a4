"""The config tree: defaults of Dassl 0.6.3, merged from YAML files and command lines by yacs."""

from yacs.config import CfgNode as _YacsNode

from .defaults import DEFAULTS
from .limits import check_values
from .node import ConfigKeyError, RootConfig

__all__ = ["ConfigKeyError", "RootConfig", "check_values", "clean_cfg", "get_cfg_default"]


def get_cfg_default() -> RootConfig:
    """Return a new config with all default values."""
    return RootConfig(DEFAULTS)  # copies the defaults


def clean_cfg(cfg: _YacsNode, trainer: str) -> None:
    """Remove the nodes of all trainers but ``trainer``, so that a printed config shows the keys in use."""
    for key in [key for key in cfg.TRAINER if key not in ("NAME", trainer.upper())]:
        cfg.TRAINER.pop(key)
