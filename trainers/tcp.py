"""TCP for Dassl."""

from prompting.methods import tcp
from trainers.trainer import PromptTrainer, register

EPS = 1e-3  # eps of Adam, as published; with torch's 1e-8 half precision gives NaN, and float32 other numbers


@register
class TCP(PromptTrainer):
    """Learns a context, and a network that makes class-aware tokens from the data set's sentences."""

    model_class = tcp.TCP
    node = "COOP"
    model_name = saved_part = "prompt_learner"

    def build_model(self) -> None:
        """Build the model, and an optimizer with the published eps."""
        super().build_model()
        for group in self.optim.param_groups:
            if "eps" in group:
                group["eps"] = EPS
