"""PLOT for Dassl."""

from __future__ import annotations

from prompting.methods import plot
from trainers.trainer import PromptTrainer, register


@register
class PLOT(PromptTrainer):
    """Learns N text contexts and transports the regions of an image to them."""

    model_class = plot.PLOT
    node = "PLOT"
    model_name = saved_part = "prompt_learner"
