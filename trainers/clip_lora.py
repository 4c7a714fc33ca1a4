"""CLIP-LoRA for Dassl: the learning rate follows a cosine over iterations, of which there are N_ITERS per shot."""

import math
from pathlib import Path
from typing import Any

from prompting.methods import clip_lora
from prompting.torch_files import read_pickled
from trainers.record.log import logger
from trainers.step_cosine import StepCosine
from trainers.trainer import PromptTrainer, register

LAST_RATE = 1e-6
RELEASED_FILE = "lora_weights.pt"


@register
class CLIP_LoRA(PromptTrainer):  # noqa: N801 - the registry name
    """Learns low-rank updates of the attention in both towers."""

    model_class = clip_lora.CLIPLoRA
    node = "CLIP_LORA"
    default_precision = "amp"
    model_name = "CLIP_LoRA"
    steps_schedule = True

    def build_schedule(self) -> StepCosine:
        """Return a schedule over N_ITERS iterations per shot, rounded up to whole epochs."""
        iterations, shots = self.settings(self.cfg)["N_ITERS"], self.cfg.DATASET.NUM_SHOTS
        batches = len(self.train_loader_x)
        if iterations and shots > 0:
            self.max_epoch = math.ceil(iterations * shots / batches)
            logger.info(
                f"{iterations} iterations for each of {shots} shots: {self.max_epoch} epochs of {batches} batches"
            )
        return StepCosine(self.optim, self.cfg.OPTIM.LR, self.max_epoch * batches, LAST_RATE)

    def train(self) -> None:
        """Train and evaluate.

        Raises:
            ValueError: N_ITERS is above 0, but the number of shots is not given.
        """
        iterations, shots = self.settings(self.cfg)["N_ITERS"], self.cfg.DATASET.NUM_SHOTS
        if iterations and shots < 1:
            key = self.full_key("N_ITERS")
            raise ValueError(f"{key} is {iterations} for each shot, but DATASET.NUM_SHOTS is {shots}: set {key} to 0")
        super().train()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the updates of a run, or a published file ``lora_weights.pt`` in its folder."""
        path = Path(directory) / RELEASED_FILE
        if not directory or not path.is_file():
            super().load_model(directory, epoch)
            return
        logger.info(f"Loading weights from {path}")
        model: Any = self.model
        try:
            content = read_pickled(path, objects=False)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        model.load_released(content, str(path))
        self.loaded_from = str(path)
