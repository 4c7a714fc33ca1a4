"""PromptSRC for Dassl."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prompting.checkpoint import learned_state
from prompting.methods import promptsrc
from trainers.record.log import logger
from trainers.trainer import Batch, PromptTrainer, register


@register
class PromptSRC(PromptTrainer):
    """Learns text and visual prompts close to CLIP; after the last step their mean over epochs replaces them."""

    model_class = promptsrc.PromptSRC
    node = "PROMPTSRC"
    model_name = "VLPromptLearner"

    def build_model(self) -> None:
        """Build the model and the mean of its learned tensors."""
        super().build_model()
        settings = self.settings(self.cfg)
        self.mean = promptsrc.GaussianMean(settings["GPA_MEAN"], settings["GPA_STD"])
        self.before_mean: dict[str, Tensor] = {}  # the learned tensors that the mean has replaced

    def forward_backward(self, batch: Batch) -> dict[str, float]:
        """Take one step; at the end of an epoch update the mean, and after the last epoch load it into the model."""
        summary = super().forward_backward(batch)
        if self.batch_idx + 1 == self.num_batches:
            learned = learned_state(self.model)
            self.mean.update(self.epoch + 1, learned)
            if self.epoch + 1 == self.max_epoch:
                self.before_mean = {name: tensor.detach().clone() for name, tensor in learned.items()}
                self._set_learned(self.mean.tensors)
                logger.info(f"The prompts are now their Gaussian-weighted mean over {self.max_epoch} epochs")
        return summary

    @torch.no_grad()
    def _set_learned(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in learned_state(self.model).items():
            tensor.copy_(values[name])

    def training_state(self) -> dict[str, Any]:
        """Return the trainer's state with the running mean."""
        gpa = {"epoch": self.epoch + 1, "mean": dict(self.mean.tensors), "before_mean": dict(self.before_mean)}
        return {**super().training_state(), "gpa": gpa}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state; to train beyond the epoch that loaded the mean, restore the prompts before their mean."""
        super().load_training_state(state)
        if "gpa" not in state:
            logger.warning("The checkpoint has no mean over earlier epochs: the mean starts with the next epoch")
            return
        gpa = state["gpa"]
        self.mean.tensors = {name: value.to(self.device) for name, value in gpa["mean"].items()}
        if gpa["before_mean"] and gpa["epoch"] < self.max_epoch:
            self._set_learned(gpa["before_mean"])
