"""Registries of backbones and heads, to which plugins add the entries, and a classifier made of them."""

import logging
from typing import Any

import torch
import torch.nn as nn
from dassl.utils import Registry, check_availability
from yacs.config import CfgNode

__all__ = ["BACKBONE_REGISTRY", "HEAD_REGISTRY", "Backbone", "SimpleNet", "build_backbone", "build_head"]

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


class SimpleNet(nn.Module):
    """A backbone, optionally a head, and a linear classifier of ``num_classes`` classes; 0: features only.

    ``model_cfg`` is the node ``MODEL``; ``kwargs`` go to the constructors of backbone and head.
    """

    def __init__(self, cfg: CfgNode, model_cfg: CfgNode, num_classes: int, **kwargs: Any) -> None:
        super().__init__()
        body, top = model_cfg.BACKBONE, model_cfg.HEAD
        self.backbone = build_backbone(body.NAME, verbose=cfg.VERBOSE, pretrained=body.PRETRAINED, **kwargs)
        self._fdim = self.backbone.out_features
        self.head = None
        if top.NAME and top.HIDDEN_LAYERS:
            options = {"activation": top.ACTIVATION, "bn": top.BN, "dropout": top.DROPOUT, **kwargs}
            self.head = build_head(
                top.NAME, verbose=cfg.VERBOSE, in_features=self._fdim, hidden_layers=top.HIDDEN_LAYERS, **options
            )
            self._fdim = self.head.out_features
        self.classifier = nn.Linear(self._fdim, num_classes) if num_classes > 0 else None

    @property
    def fdim(self) -> int:
        """Width of the features."""
        return self._fdim

    def forward(self, x: torch.Tensor, return_feature: bool = False) -> Any:
        """Return scores (B, K), or (scores, features (B, fdim)); only features if there is no classifier."""
        features = self.backbone(x)
        if self.head is not None:
            features = self.head(features)
        if self.classifier is None:
            return features
        scores = self.classifier(features)
        return (scores, features) if return_feature else scores
