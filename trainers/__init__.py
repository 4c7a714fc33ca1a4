"""One trainer per method: importing this package imports all of its modules, which register them with Dassl."""

import os
import pkgutil
from importlib import import_module
from pathlib import Path

from yacs.config import CfgNode

from prompting.clip import register_checkpoint
from trainers import settings, speed
from trainers.trainer import METHODS, add_nodes

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

_ASSETS = Path(__file__).resolve().parent.parent / "assets"
register_checkpoint("mini", os.fspath(_ASSETS / "mini_world" / "mini_clip.safetensors"))


def extend_cfg(cfg: CfgNode) -> None:
    """Add the config keys of every method, with their defaults."""
    add_nodes(cfg, *METHODS)
    cfg.TRAIN.update(speed.DEFAULTS)


def fill_defaults(cfg: CfgNode) -> None:
    """Replace None in keys that methods share by the defaults of the method ``cfg.TRAINER.NAME``, if it is known."""
    for method in METHODS:
        if method.__name__ == cfg.TRAINER.NAME:
            settings.fill_defaults(cfg, method)
