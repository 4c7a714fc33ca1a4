"""CLIP-LoRA for Dassl: the learning rate follows a cosine over iterations, of which there are N_ITERS per shot."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from prompting.checkpoint import load_learned
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
    model: clip_lora.CLIPLoRA

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
        try:
            content = read_pickled(path, objects=False)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        state = published_state(content, str(path), self.model)
        load_learned(self.model, state, str(path), self.model.released_names)
        self.loaded_from = str(path)


def published_state(content: Any, source: str, model: clip_lora.CLIPLoRA) -> dict[str, Tensor]:
    """Return the updates in a published file by the names of ``model.released_names``.

    Args:
        content: {"weights": {"layer_0": {"q_proj": {..}}, ..}, "metadata": {..}}; the layers are those of the text
            tower, then of the vision tower.
        source: the file's name in error messages.
        model: the model to load the updates into.

    Raises:
        ValueError: the file has another structure, or other settings than the model.
    """
    towers: Any = model.get_submodule("prompt_learner.towers")
    blocks = [f"towers.{t}.{i}" for t, tower in towers.items() for i in tower]
    try:
        metadata = {key: value for key, value in content["metadata"].items() if hasattr(model.options, key)}
        numbered = {
            (int(layer.rpartition("_")[2]), f"{module}.{name}"): tensor
            for layer, modules in content["weights"].items()
            for module, tensors in modules.items()
            for name, tensor in tensors.items()
            if isinstance(tensor, Tensor)
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{source} is no file of CLIP-LoRA: it needs weights of layers, and metadata") from None
    for key, value in metadata.items():
        here = getattr(model.options, key)
        if (sorted(here) != sorted(value)) if key == "params" else here != value:
            raise ValueError(f"{source} was trained with {key} {value!r}; this model has {here!r}")
    if wrong := next((number for number, _ in numbered if not 0 <= number < len(blocks)), None):
        raise ValueError(f"{source} has a layer {wrong}; this model has {len(blocks)} layers, from 0")
    return {clip_lora.released_name(f"{blocks[number]}.{rest}"): tensor for (number, rest), tensor in numbered.items()}
