"""MaPLe for Dassl."""

from prompting.methods import maple
from trainers.trainer import PromptTrainer, register


@register
class MaPLe(PromptTrainer):
    """Learns text prompts and their projections to the vision tower."""

    model_class = maple.MaPLe
    node = "MAPLE"
    model_name = "MultiModalPromptLearner"
