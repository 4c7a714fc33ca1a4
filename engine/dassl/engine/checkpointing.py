"""Registered models and their checkpoints."""

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from dassl.utils import check_availability, distributed, load_checkpoint, save_checkpoint, tolist_if_not
from dassl.utils.checkpoint import BEST_NAME, POINTER_NAME, epoch_name, read_latest, restore
from dassl.utils.finite import first_non_finite, named_tensors
from dassl.utils.tools import get_rng_state, set_rng_state

logger = logging.getLogger(__name__)

Names = Any  # a model's name, a list of names, or None for all


class ModelRegistry:
    """The part of a trainer that registers models, optimizers and schedules by name, saves and loads them."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Register a model with its optimizer and schedule, or None; ``name`` is also the folder of its checkpoints.

        Raises:
            AttributeError: called before ``super().__init__()``.
            ValueError: the name is registered already.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("Cannot assign model before super().__init__() call")
        if name in self._models:
            raise ValueError(f"Found duplicate model names: {name} is registered already")
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """Return ``names`` as a list, or all in the order of registration; raise ValueError for an unknown name."""
        known = list(self._models)
        wanted = known if names is None else tolist_if_not(names)
        for name in wanted:
            check_availability(name, known)
        return wanted

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Set models to the mode ``train``, ``test`` or ``eval`` (``test`` is ``eval``)."""
        check_availability(mode, ["train", "test", "eval"])
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # ---- checkpoints

    def training_state(self) -> dict[str, Any]:
        """Return the state of the trainer for a checkpoint: tensors and plain values. Subclasses may add to it."""
        state: dict[str, Any] = {"rng": get_rng_state()}
        if getattr(self, "scaler", None) is not None:
            state["scaler"] = self.scaler.state_dict()  # type: ignore[attr-defined]
        return state

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`training_state` returned."""
        if state.get("scaler") and getattr(self, "scaler", None) is not None:
            self.scaler.load_state_dict(state["scaler"])  # type: ignore[attr-defined]
        if "rng" in state:
            set_rng_state(state["rng"])

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Save every model to ``directory/<name>/`` in the main process; the other processes wait.

        ``epoch`` is the index of the finished epoch, from 0; ``is_best`` also saves as the best model; ``model_name``
        is the file name, ``model.pth.tar-<epoch + 1>`` if empty.

        Raises:
            FloatingPointError: a tensor holds NaN or infinity; nothing is written.
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
            if problem := first_non_finite(named_tensors({key: state[key] for key in ("state_dict", "optimizer")})):
                raise FloatingPointError(f"{name} of epoch {epoch + 1} is not saved: {problem}; try a smaller OPTIM.LR")
            if not distributed.is_main():
                continue
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)
        distributed.broadcast("saved")

    def has_checkpoint(self, directory: str) -> bool:
        """Return whether every registered model has a checkpoint in the folder of a run."""
        names = self.get_model_names()
        return bool(names) and all(os.path.isfile(os.path.join(directory, n, POINTER_NAME)) for n in names)

    def resume_model_if_exist(self, directory: str) -> int:
        """Load the last checkpoint in the folder of a run, if there is one; return its number of epochs, else 0.

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
            # Dassl's files have no "trainer", but the best model may have a score
            state = checkpoint.get("trainer") or {"best_result": _best_score(os.path.dirname(path), checkpoint)}
        if len(set(epochs.values())) > 1:
            raise ValueError(f"The models in {directory} were saved after different epochs: {epochs}")
        try:
            self.load_training_state(state)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"The trainer state in {directory} is damaged: {type(error).__name__}: {error}") from error
        return next(iter(epochs.values()))

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load all models for evaluation from the folder of a run; nothing if ``directory`` is empty.

        ``epoch`` is the number of finished epochs; None loads the best model.

        Raises:
            FileNotFoundError: the checkpoint does not exist.
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
                found = sorted(f for f in os.listdir(folder) if f.startswith("model")) if os.path.isdir(folder) else []
                raise FileNotFoundError(f"No model at {path} (found there: {', '.join(found) or 'nothing'})")
            checkpoint = load_checkpoint(path)
            restore(path, checkpoint, self._models[name])
            result = checkpoint.get("val_result")
            shown = "unknown" if result is None else f"{result:.1f}"
            logger.info(f"Load {path} to {name} (epoch={checkpoint['epoch']}, val_result={shown})")


def _best_score(folder: str, checkpoint: Mapping[str, Any]) -> float | None:
    if checkpoint.get("val_result") is not None:
        return checkpoint["val_result"]
    best = os.path.join(folder, BEST_NAME)
    return load_checkpoint(best).get("val_result") if os.path.isfile(best) else None
