"""Optimizers by name."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn as nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from .radam import RAdam

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]


def build_optimizer(
    model: nn.Module | Iterable[Any], optim_cfg: CfgNode, param_groups: Iterable[Any] | None = None
) -> Optimizer:
    """Return the optimizer of ``cfg.OPTIM``.

    ``model`` is a model (all its parameters; frozen ones get no gradient and do not change), parameters or parameter
    groups; if given, ``param_groups`` are optimized instead.

    Raises:
        ValueError: unknown optimizer.
        TypeError: ``STAGED_LR`` is set and ``model`` is not a module.
    """
    cfg = optim_cfg
    if cfg.NAME not in AVAI_OPTIMS:
        raise ValueError(f"optim must be one of {AVAI_OPTIMS}, but got {cfg.NAME}")
    if param_groups is not None:
        if cfg.STAGED_LR:
            warnings.warn("STAGED_LR is ignored because param_groups are given: set their rates there", stacklevel=2)
        groups = param_groups
    elif cfg.STAGED_LR:
        groups = _staged(model, cfg)
    else:
        groups = model.parameters() if isinstance(model, nn.Module) else model

    common: dict[str, Any] = {"lr": cfg.LR, "weight_decay": cfg.WEIGHT_DECAY}
    # the config may come from Dassl itself, which has no ADAM_EPS
    adam = {**common, "betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2), "eps": cfg.get("ADAM_EPS", 1e-8)}
    if cfg.NAME == "sgd":
        momentum = {"momentum": cfg.MOMENTUM, "dampening": cfg.SGD_DAMPNING, "nesterov": cfg.SGD_NESTEROV}
        return torch.optim.SGD(groups, **common, **momentum)
    if cfg.NAME == "rmsprop":
        return torch.optim.RMSprop(groups, **common, momentum=cfg.MOMENTUM, alpha=cfg.RMSPROP_ALPHA)
    if cfg.NAME == "radam":
        return RAdam(groups, **adam)
    if cfg.NAME == "adamw":
        return torch.optim.AdamW(groups, **adam)
    return torch.optim.Adam(groups, **adam, amsgrad=cfg.NAME == "amsgrad")


def _staged(model: Any, cfg: CfgNode) -> list[dict[str, Any]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"STAGED_LR needs a model to take the layers from, but got {type(model).__name__}")
    new_layers = [cfg.NEW_LAYERS] if isinstance(cfg.NEW_LAYERS, str) else cfg.NEW_LAYERS
    if not any(new_layers):
        warnings.warn("OPTIM.NEW_LAYERS is empty: STAGED_LR gives all layers LR * BASE_LR_MULT", stacklevel=3)
    base: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, child in model.named_children():
        (new if name in new_layers else base).extend(child.parameters())
    return [{"params": base, "lr": cfg.LR * cfg.BASE_LR_MULT}, {"params": new}]
