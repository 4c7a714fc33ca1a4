"""Registries of backbones and heads for SimpleNet; plugins add the entries."""

from __future__ import annotations

import logging
from typing import Any

import torch.nn as nn
from dassl.utils import Registry, check_availability

__all__ = ["BACKBONE_REGISTRY", "HEAD_REGISTRY", "Backbone", "build_backbone", "build_head"]

BACKBONE_REGISTRY = Registry("BACKBONE")
HEAD_REGISTRY = Registry("HEAD")


class Backbone(nn.Module):
    """A feature extractor with a known feature width."""

    _out_features: int

    @property
    def out_features(self) -> int:
        """Width of the features; a subclass sets ``_out_features``."""
        return self._out_features


def _build(kind: str, registry: Registry, name: str, verbose: bool, options: dict[str, Any]) -> Any:
    check_availability(name, registry.registered_names())
    if verbose:
        logging.getLogger(__name__).info("%s: %s", kind, name)
    return registry.get(name)(**options)


def build_backbone(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """Return a registered backbone, built with the keyword arguments."""
    return _build("Backbone", BACKBONE_REGISTRY, name, verbose, kwargs)


def build_head(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """Return a registered head, built with the keyword arguments."""
    return _build("Head", HEAD_REGISTRY, name, verbose, kwargs)
