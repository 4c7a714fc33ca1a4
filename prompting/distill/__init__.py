"""Distillation: a smaller vision tower that gives a trained run's class distribution, from images without labels."""
