"""UPT for Dassl."""

from prompting.methods import upt
from trainers.trainer import PromptTrainer, register


@register
class UPT(PromptTrainer):
    """Learns a shared prompt and the network that maps it to text and visual prompts."""

    model_class = upt.UPT
    node = "UPT"
    default_precision = "auto"
    model_name = saved_part = "prompt_learner"


@register
class Unified(PromptTrainer):
    """UPT under the authors' name and config node: the reading ``released``."""

    model_class = upt.Unified
    node = "COOP"
    model_name = saved_part = "prompt_learner"
