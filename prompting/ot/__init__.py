"""Hierarchical optimal transport as a classification head; needs torch alone (see README.md in this folder)."""

from .hierarchical import HierarchicalOutput, hierarchical_ot
from .module import HierarchicalOT
from .sinkhorn import SinkhornOutput, sinkhorn

__all__ = ["HierarchicalOT", "HierarchicalOutput", "SinkhornOutput", "hierarchical_ot", "sinkhorn"]
