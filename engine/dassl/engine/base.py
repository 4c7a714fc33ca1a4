"""What every trainer has: named models, their checkpoints, and the order of events."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from dassl.utils import check_availability, load_checkpoint, save_checkpoint, tolist_if_not
from dassl.utils.checkpoint import BEST_NAME, POINTER_NAME, epoch_name, read_latest, restore
from dassl.utils.rng import get_rng_state, set_rng_state

logger = logging.getLogger(__name__)

Names = Any  # a model's name, a list of names, or None for all


class TrainerBase:
    """Base of iterative trainers."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None
        self._bar: Any = None
        self._batch: tuple[Any, ...] = ()
        self.test_results: dict[str, Any] = {}

    # ---- models

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Put a model, with its optimizer and schedule, under this trainer's care.

        Args:
            name: also the name of the folder of its checkpoints.
            model: the model.
            optim: its optimizer, if it learns.
            sched: its schedule, if it has one.

        Raises:
            AttributeError: called before ``super().__init__()``.
            ValueError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("Cannot assign model before super().__init__() call")
        if name in self._models:
            raise ValueError(f"Found duplicate model names: {name} is registered already")
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """Return all names in the order of registration, or the given ones as a list.

        Raises:
            ValueError: a name is not registered.
        """
        known = list(self._models)
        if names is None:
            return known
        for name in tolist_if_not(names):
            check_availability(name, known)
        return tolist_if_not(names)

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Put models into the mode ``train``, ``test`` or ``eval`` (the last two are the same)."""
        check_availability(mode, ["train", "test", "eval"])
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # ---- checkpoints

    def training_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside models: tensors and plain values only. Subclasses may add to it."""
        state: dict[str, Any] = {"rng": get_rng_state()}
        if getattr(self, "scaler", None) is not None:
            state["scaler"] = self.scaler.state_dict()  # type: ignore[attr-defined]
        return state

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`training_state` returned."""
        if state.get("scaler") and getattr(self, "scaler", None) is not None:
            self.scaler.load_state_dict(state["scaler"])  # type: ignore[attr-defined]
        if "rng" in state:
            set_rng_state(state["rng"])

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Save every model to ``directory/<name>/``.

        Args:
            epoch: index of the epoch just done, from 0.
            directory: the run's folder.
            is_best: also save as the best model.
            val_result: accuracy on the validation set, if known.
            model_name: file name; ``model.pth.tar-<epoch + 1>`` if empty.
        """
        shared = self.training_state()
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": None if val_result is None else float(val_result),
                "trainer": shared,
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def has_checkpoint(self, directory: str) -> bool:
        """Return whether every registered model has a checkpoint in a run's folder."""
        names = self.get_model_names()
        return bool(names) and all(os.path.isfile(os.path.join(directory, n, POINTER_NAME)) for n in names)

    def resume_model_if_exist(self, directory: str) -> int:
        """Load the last checkpoint of a run's folder, if there is one.

        Returns:
            Epochs done; 0 without checkpoint.

        Raises:
            ValueError: the checkpoint is of another model or other classes, or the models' epochs differ.
        """
        if not self.has_checkpoint(directory):
            logger.info("No checkpoint found, train from scratch")
            return 0
        logger.info("Found checkpoint at %s (will resume training)", directory)
        epochs, state = {}, {}
        for name in self.get_model_names():
            path, checkpoint = read_latest(os.path.join(directory, name))
            epochs[name] = restore(path, checkpoint, self._models[name], self._optims[name], self._scheds[name])
            # Files of Dassl's have no "trainer": the best score may be known all the same.
            state = checkpoint.get("trainer") or {"best_result": _best_score(os.path.dirname(path), checkpoint)}
        if len(set(epochs.values())) > 1:
            raise ValueError(f"The models in {directory} were saved after different epochs: {epochs}")
        self.load_training_state(state)
        return next(iter(epochs.values()))

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load all models for evaluation.

        Args:
            directory: a run's folder; empty: nothing is loaded.
            epoch: epochs done; None for the best model.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: the checkpoint is of another model.
        """
        if not directory:
            note = "no pretrained model is given (ignore this if it's done on purpose)"
            logger.info("Note that load_model() is skipped as %s", note)
            return
        for name in self.get_model_names():
            folder = os.path.join(directory, name)
            path = os.path.join(folder, BEST_NAME if epoch is None else epoch_name(epoch))
            if not os.path.isfile(path):
                there = sorted(f for f in os.listdir(folder) if f.startswith("model")) if os.path.isdir(folder) else []
                raise FileNotFoundError(f"No model at {path} (found there: {', '.join(there) or 'nothing'})")
            checkpoint = load_checkpoint(path)
            restore_only_weights = {"state_dict": checkpoint["state_dict"], "epoch": checkpoint["epoch"]}
            restore(path, restore_only_weights, self._models[name])
            result = checkpoint.get("val_result")
            shown = "unknown" if result is None else f"{result:.1f}"
            logger.info(f"Load {path} to {name} (epoch={checkpoint['epoch']}, val_result={shown})")

    # ---- steps

    def update_lr(self, names: Names = None) -> None:
        """Step the schedules; trainers call it at the end of an epoch, in ``forward_backward``."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Raise FloatingPointError, naming the images of the batch, unless the loss is finite."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError(self._anomaly("loss", loss.detach().flatten().tolist()))

    def _anomaly(self, name: str, value: Any) -> str:
        paths = [p for batch in self._batch if isinstance(batch, Mapping) for p in batch.get("impath", [])]
        shown = ", ".join(map(str, paths[:4])) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        where = f"epoch {getattr(self, 'epoch', 0) + 1}, batch {getattr(self, 'batch_idx', 0) + 1}"
        return f"Loss is infinite or NaN! ({name} = {value} at {where}; images: {shown or 'unknown'})"

    def model_zero_grad(self, names: Names = None) -> None:
        """Forget the gradients of models."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        """Check the loss and compute gradients."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: Names = None) -> None:
        """Step the optimizers of models."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: Names = None) -> None:
        """Forget old gradients, compute new ones and step.

        Raises:
            FloatingPointError: the loss is infinite or NaN.
        """
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def prograd_backward_and_update(
        self, loss_a: torch.Tensor, loss_b: torch.Tensor, lambda_: float = 1, names: Names = None
    ) -> None:
        r"""Step along the gradient a of ``loss_a``, without the part that works against the gradient b of ``loss_b``.

        .. math:: a - \lambda \frac{\langle a, b\rangle}{\lVert b\rVert^2} b \quad \text{where } \langle a, b\rangle < 0

        for each parameter tensor by itself (Zhu et al. 2023, ProGrad, eq. 5).

        Args:
            loss_a: the loss to lower (scalar).
            loss_b: the loss not to raise (scalar).
            lambda_: share of the conflicting part that is taken out, in [0, 1].
            names: models to update.

        Raises:
            FloatingPointError: a loss is infinite or NaN.
        """
        names = self.get_model_names(names)
        params = [p for name in names for p in self._models[name].parameters() if p.requires_grad]
        for loss in (loss_a, loss_b):
            self.detect_anomaly(loss)
        general = torch.autograd.grad(loss_b, params, retain_graph=True, allow_unused=True)
        self.model_zero_grad(names)
        loss_a.backward()
        for param, b in zip(params, general):
            if param.grad is None or b is None:
                continue
            dot = (param.grad * b).sum()
            if dot < 0:  # implies that b is not zero
                param.grad = param.grad - lambda_ * dot / b.square().sum() * b
        self.model_update(names)

    # ---- TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Open a TensorBoard writer, unless one is open."""
        if self.__dict__.get("_writer") is None:
            from torch.utils.tensorboard import SummaryWriter  # here, because it takes seconds to import

            logger.info("Initialize tensorboard (log_dir=%s)", log_dir)
            self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        """Close the TensorBoard writer, if one is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a value to TensorBoard; without a writer (no training) do nothing."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # ---- the order of events

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Train from one epoch to another, calling the hooks below in their order."""
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        try:
            self.before_train()
            for epoch in range(self.start_epoch, self.max_epoch):
                self.epoch = epoch
                self.before_epoch()
                self.run_epoch()
                self.after_epoch()
            self._close_bar()
            self.after_train()
        finally:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def before_train(self) -> None:
        """Hook; may change ``self.start_epoch``."""

    def after_train(self) -> None:
        """Hook."""

    def before_epoch(self) -> None:
        """Hook."""

    def after_epoch(self) -> None:
        """Hook."""

    def run_epoch(self) -> None:
        """Train for an epoch."""
        raise NotImplementedError

    def test(self) -> Any:
        """Evaluate."""
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        """Take a training batch apart."""
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        """Take a test batch apart."""
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> Any:
        """Do one training step and return what to log: name -> number."""
        raise NotImplementedError

    def model_inference(self, input: Any) -> Any:
        """Return scores (B, K) for images."""
        raise NotImplementedError


def _best_score(folder: str, checkpoint: Mapping[str, Any]) -> float | None:
    if checkpoint.get("val_result") is not None:
        return checkpoint["val_result"]
    best = os.path.join(folder, BEST_NAME)
    return load_checkpoint(best).get("val_result") if os.path.isfile(best) else None
