"""ProDA for Dassl."""

from prompting.methods import proda
from trainers.trainer import PromptTrainer, register


@register
class ProDA(PromptTrainer):
    """Learns N text contexts whose class weights follow a Gaussian."""

    model_class = proda.ProDA
    node = "PRODA"
    default_precision = "auto"
    model_name = saved_part = "prompt_learner"
