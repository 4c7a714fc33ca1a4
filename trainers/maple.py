"""MaPLe for Dassl."""

from __future__ import annotations

from prompting.methods import maple
from trainers.trainer import PromptTrainer, register


@register
class MaPLe(PromptTrainer):
    """Learns text prompts and their projections to the vision tower."""

    model_class = maple.MaPLe
    node = "MAPLE"
    model_name = "MultiModalPromptLearner"
