"""Prompt tuning for CLIP, without Dassl or data sets: loaders, encoders, learned prompts, optimal transport, heads."""

__version__ = "0.2.0"
