"""A light implementation of the Dassl API (see engine/README.md)."""

__version__ = "0.6.3+light.0.1.0"
