"""Trainers over labelled batches (TrainerX), or over pairs of labelled and unlabelled batches (TrainerXU).

Plugins import helpers from here too, as from Dassl's module.
"""
# ruff: noqa: F401

import datetime
import logging
import math
import time
from collections.abc import Iterable
from itertools import chain, islice, repeat
from typing import Any

import torch
from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.modeling import SimpleNet, build_backbone, build_head
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (
    AverageMeter,
    MetricMeter,
    check_availability,
    count_num_param,
    distributed,
    load_checkpoint,
    load_pretrained_weights,
    mkdir_if_missing,
    progress,
    resume_from_checkpoint,
    save_checkpoint,
    tolist_if_not,
)

from .base import TrainerBase
from .simple import SimpleTrainer

__all__ = ["SimpleNet", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]

logger = logging.getLogger(__name__)


class _EpochTrainer(SimpleTrainer):
    """Runs ``forward_backward`` over batches, with meters, log lines, TensorBoard and a progress bar."""

    def _run_batches(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Train for one epoch; each item of ``batches`` is a tuple of arguments of ``forward_backward``."""
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        if self._bar is None:
            total, done = self.max_epoch * self.num_batches, self.epoch * self.num_batches
            self._bar = progress(total=total, initial=done, desc="train", unit="batch")
        end = time.time()
        for self.batch_idx, whole in enumerate(batches):
            data_time.update(time.time() - end)
            self._batch, self._share = distributed.take_share(whole)
            try:
                summary = distributed.weighted_mean(self.forward_backward(*self._batch), self._share)
            except (FloatingPointError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "overflow" not in str(error):  # of an optimizer's step size
                    raise
                raise self.locate(error) from error
            batch_time.update(time.time() - end)
            losses.update(summary)
            for name, meter in losses.meters.items():
                # trainers that call optimizer.step() themselves have not checked the loss
                if "loss" in name.lower() and not math.isfinite(meter.val):
                    raise self.locate(f"Loss is infinite or NaN! ({name} = {meter.val})")
            self._report(losses, batch_time, data_time)
            end = time.time()

    def _report(self, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter) -> None:
        done, frequency = self.batch_idx + 1, self.cfg.TRAIN.PRINT_FREQ
        lr = self.get_current_lr()
        if done % frequency == 0 or self.num_batches < frequency:
            left = self.num_batches - done + (self.max_epoch - self.epoch - 1) * self.num_batches
            eta = datetime.timedelta(seconds=int(batch_time.avg * left))
            logger.info(
                f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{done}/{self.num_batches}] "
                f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
                f"{losses} lr {lr:.4e} eta {eta}"
            )
        step = self.epoch * self.num_batches + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", lr, step)
        self._bar.set_postfix_str(f"epoch {self.epoch + 1}/{self.max_epoch} {losses}", refresh=False)
        self._bar.update()


class TrainerX(_EpochTrainer):
    """Trains on labelled data; an epoch is one pass over ``train_loader_x``."""

    def run_epoch(self) -> None:
        """Train for an epoch."""
        self.set_model_mode("train")
        self.num_batches = len(self.train_loader_x)
        self._run_batches((batch,) for batch in self.train_loader_x)

    def parse_batch_train(self, batch: Any) -> Any:
        """Return images, labels and domains of a batch on the trainer's device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))


class TrainerXU(_EpochTrainer):
    """Trains on labelled and unlabelled data; ``TRAIN.COUNT_ITER`` names the loader whose length is an epoch."""

    def run_epoch(self) -> None:
        """Train for an epoch; raise ValueError if the data set has no unlabelled images."""
        if self.train_loader_u is None:
            raise ValueError(f"{type(self).__name__} needs unlabelled images, but {self.cfg.DATASET.NAME} has none")
        self.set_model_mode("train")
        loaders = self.train_loader_x, self.train_loader_u
        sizes = {"train_x": len(loaders[0]), "train_u": len(loaders[1])}
        sizes["smaller_one"] = min(sizes.values())
        self.num_batches = sizes[self.cfg.TRAIN.COUNT_ITER]
        # Both loaders start before the first batch, because each draws a seed; one that runs out starts again.
        streams = [chain(iter(loader), chain.from_iterable(repeat(loader))) for loader in loaders]
        self._run_batches(islice(zip(*streams), self.num_batches))

    def parse_batch_train(self, batch_x: Any, batch_u: Any) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        """Return labelled images, their labels and unlabelled images on the trainer's device."""
        return tuple(part.to(self.device) for part in (batch_x["img"], batch_x["label"], batch_u["img"]))


def __getattr__(name: str) -> Any:
    if name != "SummaryWriter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torch.utils.tensorboard import SummaryWriter  # imported late: it takes seconds

    return SummaryWriter
