"""Prompt tuning for CLIP: loaders and encoders, learned prompts, optimal transport, heads. Knows no data set."""

__version__ = "0.2.0"
