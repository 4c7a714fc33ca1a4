"""VPT for Dassl."""

from prompting.methods import vpt
from trainers.trainer import PromptTrainer, register


@register
class VPT(PromptTrainer):
    """Learns visual prompts."""

    model_class = vpt.VPT
    node = "VPT"
    model_name = "prompt_learner"
