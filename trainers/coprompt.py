"""CoPrompt for Dassl."""

from torch import Tensor

from prompting.methods import coprompt
from trainers.trainer import Batch, PromptTrainer, register


@register
class CoPrompt(PromptTrainer):
    """Learns MaPLe's prompts and two adapters; with DATALOADER.K_TRANSFORMS 2, the teacher sees the second view."""

    model_class = coprompt.CoPrompt
    node = "CoPrompt"
    other_keys = {"W": "TRAINER.W", "DISTILL": "TRAINER.DISTILL"}
    model_name = "MultiModalPromptLearner"

    def parse_batch_train(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return images, labels and, with two transforms, the second view of the images."""
        views = batch["img"] if isinstance(batch["img"], (list, tuple)) else [batch["img"]]
        first, *others = (view.to(self.device) for view in views)
        return first, batch["label"].to(self.device), *others[:1]
