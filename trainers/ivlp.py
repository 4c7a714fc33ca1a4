"""IVLP for Dassl."""

from prompting.methods import ivlp
from trainers.trainer import PromptTrainer, register


@register
class IVLP(PromptTrainer):
    """Learns text and visual prompts independently."""

    model_class = ivlp.IVLP
    node = "IVLP"
    model_name = "VLPromptLearner"
