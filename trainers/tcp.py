"""TCP for Dassl."""

from prompting.methods import tcp
from trainers.trainer import PromptTrainer, register


@register
class TCP(PromptTrainer):
    """Learns a context, and a network that makes class-aware tokens from the data set's sentences."""

    model_class = tcp.TCP
    node = "COOP"
    model_name = saved_part = "prompt_learner"
    eps = 1e-3  # as published; with torch's 1e-8 half precision gives NaN, and float32 other numbers
