"""Tip-Adapter-F for Dassl."""

from collections.abc import Iterator
from typing import Any

import torch
from dassl.data.data_manager import DatasetWrapper
from dassl.data.transforms import build_transform
from torch.utils.data import DataLoader

from prompting.methods import tipadapterf
from trainers.record.log import logger
from trainers.step_cosine import StepCosine
from trainers.trainer import Batch, PromptTrainer, register


@register
class TipAdapterF(PromptTrainer):
    """Fine-tunes the keys of a cache of few-shot features; epoch, beta and alpha are chosen on validation images.

    The released code chooses them on the test images. Without validation images the last epoch and the initial beta and
    alpha are taken. The learning rate follows a cosine over all steps.
    """

    model_class = tipadapterf.TipAdapterF
    node = "TIPADAPTERF"
    model_name = saved_part = "adapter"
    eps = 1e-4  # as published
    steps_schedule = True
    model: Any
    searched = True  # False from the end of training until beta and alpha have been searched

    def build_schedule(self) -> StepCosine:
        """Return a schedule over all steps."""
        return StepCosine(self.optim, self.cfg.OPTIM.LR, self.cfg.OPTIM.MAX_EPOCH * len(self.train_loader_x))

    def before_optimizer(self) -> None:
        """Allocate one key per training image."""
        data = self.dm.dataset
        self.model.adapter.resize([item.label for item in data.train_x], data.classnames)

    def images(self, split: list[Any], is_train: bool) -> Iterator[Batch]:
        """Yield the batches of all images of a split in order, in every process."""
        cfg = self.cfg
        data = DatasetWrapper(cfg, split, transform=build_transform(cfg, is_train=is_train))
        yield from DataLoader(data, cfg.DATALOADER.TEST.BATCH_SIZE, num_workers=cfg.DATALOADER.NUM_WORKERS)

    def build_cache(self) -> None:
        """Fill the cache with the features of the training images, unless it is filled."""
        if self.model.adapter.weight.any():
            return
        split, times = self.dm.dataset.train_x, self.cfg.TRAINER[self.node].AUGMENT_EPOCH
        logger.info(f"Building the cache: {times} augmentations of {len(split)} images")
        views = ((batch["img"].to(self.device) for batch in self.images(split, True)) for _ in range(times))
        with self.precision.autocast():
            self.model.fill_cache(views)

    def before_train(self) -> None:
        """Start or resume training; a run that starts builds its cache."""
        super().before_train()
        self.build_cache()

    def after_train(self) -> None:
        """Search beta and alpha with the keys of the best epoch, then test."""
        self.searched = not self.cfg.TRAINER[self.node].SEARCH_HP
        super().after_train()

    def test(self, split: str | None = None) -> float:
        """Evaluate on ``split``, record the result, and return the accuracy in percent."""
        self.build_cache()
        if split == "val" and self.val_loader is None:
            return float(self.epoch)  # each epoch counts as better than the previous ones: the last one is kept
        if not self.searched:
            self.searched = True
            self.search()
        return super().test(split)

    def search(self) -> None:
        """Choose beta and alpha on the validation images, and save the best model with them."""
        if self.val_loader is None:
            logger.info("There are no validation images: the last epoch, BETA and ALPHA as given")
            return
        batches = self.images(self.dm.dataset.val, False)
        with self.precision.autocast():
            found = [(self.model.image_features(b["img"].to(self.device)), b["label"]) for b in batches]
            self.model.class_features()  # kept by the model; the search itself runs in float32
        features, labels = (torch.cat(parts).to(self.device) for parts in zip(*found))
        beta, alpha, accuracy = self.model.search(features, labels)
        logger.info(f"Search on {len(labels)} validation images: beta {beta:.2f}, alpha {alpha:.2f}, {accuracy:.2f}%")
        self.save_model(self.max_epoch - 1, self.output_dir, val_result=accuracy, model_name="model-best.pth.tar")
