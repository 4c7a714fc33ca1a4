"""CoOp for Dassl."""

from prompting.methods import coop
from trainers.trainer import PromptTrainer, register


@register
class CoOp(PromptTrainer):
    """Learns the context of the class name in a prompt."""

    model_class = coop.CoOp
    node = "COOP"
    model_name = saved_part = "prompt_learner"
