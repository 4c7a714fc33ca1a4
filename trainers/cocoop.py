"""CoCoOp for Dassl."""

from prompting.methods import cocoop
from trainers.trainer import PromptTrainer, register


@register
class CoCoOp(PromptTrainer):
    """Learns a context and a network that shifts it for each image."""

    model_class = cocoop.CoCoOp
    node = "COCOOP"
    model_name = saved_part = "prompt_learner"
