"""Hierarchical optimal transport as a classification head; needs torch alone (see README.md in this folder)."""

from .hierarchical import HierarchicalInput, HierarchicalOT, HierarchicalOutput, hierarchical_ot
from .settings import HeadSettings, SinkhornSettings
from .sinkhorn import sinkhorn
from .solver import SinkhornOutput

__all__ = [
    "HeadSettings",
    "HierarchicalInput",
    "HierarchicalOT",
    "HierarchicalOutput",
    "SinkhornOutput",
    "SinkhornSettings",
    "hierarchical_ot",
    "sinkhorn",
]
