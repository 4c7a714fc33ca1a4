"""Data sets. Importing this package registers all of them."""

from __future__ import annotations

from .catalog import CATALOG
from .mini.register import MINI_DATASETS
from .own import OWN_DATASETS
from .registry import Description, register
from .splits import Split

__all__ = ["CATALOG", "MINI_DATASETS", "OWN_DATASETS", "Description", "Split", "register"]
