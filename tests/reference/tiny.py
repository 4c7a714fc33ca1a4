"""A data set of tiny images, a trainer of one linear layer, and a config for them."""

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from PIL import Image

CLASSES = ["apple", "bell", "cloud"]


def draw_images(root: Path) -> str:
    """Write ten noise images of 8 x 8 pixels per class."""
    stream = np.random.RandomState(0)
    for name in CLASSES:
        for i in range(10):
            Image.fromarray(stream.randint(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / f"{name}_{i}.png")
    return str(root)


@DATASET_REGISTRY.register()
class TinySet(DatasetBase):
    """Per class six images for training, two each for validation and test."""

    def __init__(self, cfg):
        def part(start, stop):
            return [
                Datum(os.path.join(cfg.DATASET.ROOT, f"{name}_{i}.png"), label, i % 2, name)
                for label, name in enumerate(CLASSES)
                for i in range(start, stop)
            ]

        super().__init__(train_x=part(0, 6), val=part(6, 8), test=part(8, 10))


@TRAINER_REGISTRY.register()
class TinyTrainer(TrainerX):
    """A linear layer on the pixels; its loss has a term of random numbers of numpy and torch.

    ``stop_at`` interrupts the training before that epoch; images whose path contains ``bad_image`` give a NaN loss.
    """

    stop_at = bad_image = None

    def build_model(self):
        self.model = torch.nn.Linear(3 * 8 * 8, self.num_classes)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("tiny", self.model, self.optim, self.sched)

    def before_epoch(self):
        if self.epoch == self.stop_at:
            raise KeyboardInterrupt

    def forward_backward(self, batch):
        images, label, _ = self.parse_batch_train(batch)
        noise = np.random.rand() * torch.rand(self.model.weight.shape)
        penalty = 0.1 * (noise * self.model.weight).square().sum()
        loss = F.cross_entropy(self.model(images.flatten(1)), label) + penalty
        if any(self.bad_image and self.bad_image in path for path in batch["impath"]):
            loss = loss * float("nan")
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def model_inference(self, images):
        return self.model(images.flatten(1))


def tiny_cfg(root, output, *words):
    """A config of the tiny set and trainer; KEY, VALUE words override it."""
    cfg = get_cfg_default()
    cfg.merge_from_list(
        ["DATASET.NAME", "TinySet", "DATASET.ROOT", root, "TRAINER.NAME", "TinyTrainer", "USE_CUDA", False]
        + ["OUTPUT_DIR", str(output), "INPUT.SIZE", (8, 8), "INPUT.TRANSFORMS", ("random_flip",)]
        + ["DATALOADER.NUM_WORKERS", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 6, "OPTIM.LR_SCHEDULER", "cosine"]
        + ["OPTIM.MAX_EPOCH", 5, "OPTIM.LR", 0.01, *words]
    )
    return cfg
