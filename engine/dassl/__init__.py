"""A light implementation of the Dassl API (see README.md beside this package)."""

from __future__ import annotations

__version__ = "0.6.3+light.0.1.0"
