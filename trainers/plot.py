"""PLOT for Dassl."""

from prompting.methods import plot
from trainers.trainer import PromptTrainer, register


@register
class PLOT(PromptTrainer):
    """Learns N text contexts, matched with the spatial features of an image by optimal transport."""

    model_class = plot.PLOT
    node = "PLOT"
    model_name = saved_part = "prompt_learner"
