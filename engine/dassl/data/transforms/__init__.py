"""Image transforms from ``cfg.INPUT``."""

from .transforms import AVAI_CHOICES, INTERPOLATION_MODES, build_plain_transform, build_transform

__all__ = ["AVAI_CHOICES", "INTERPOLATION_MODES", "build_plain_transform", "build_transform"]
