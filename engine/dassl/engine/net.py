"""A classifier made of a registered backbone and head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from dassl.modeling import build_backbone, build_head
from yacs.config import CfgNode


class SimpleNet(nn.Module):
    """A backbone, optionally a head, and a linear classifier.

    Args:
        cfg: config.
        model_cfg: the node ``MODEL``.
        num_classes: K; 0 for features only.
        kwargs: arguments of the constructors of backbone and head.
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
