"""Image transforms from ``cfg.INPUT``."""

from __future__ import annotations

from .transforms import AVAI_CHOICES, INTERPOLATION_MODES, build_plain_transform, build_transform

__all__ = ["AVAI_CHOICES", "INTERPOLATION_MODES", "build_plain_transform", "build_transform"]
