"""MMA for Dassl."""

from prompting.methods import mma
from trainers.trainer import PromptTrainer, register


@register
class MultiModalAdapter(PromptTrainer):
    """Learns adapters parallel to the deeper blocks of both towers."""

    model_class = mma.MMA
    node = "MMADAPTER"
    default_precision = "amp"
    model_name, saved_part = "adapter_learner", "prompt_learner"
    unused = ("token_embedding", "tokenized_prompts")
