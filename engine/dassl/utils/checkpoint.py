"""Checkpoint files: written whole or not at all, read without running code that they bring."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import warnings
from collections import OrderedDict
from typing import Any, Callable

import torch
import torch.nn as nn

from .legacy import legacy_classes_allowed
from .tools import mkdir_if_missing

logger = logging.getLogger(__name__)

BEST_NAME = "model-best.pth.tar"
POINTER_NAME = "checkpoint"

__all__ = ["load_checkpoint", "load_pretrained_weights", "resume_from_checkpoint", "save_checkpoint"]


def epoch_name(epoch: int | str) -> str:
    """Return the file name of the checkpoint after ``epoch`` epochs."""
    return f"model.pth.tar-{epoch}"


def _without_module(key: str) -> str:
    return key[len("module.") :] if key.startswith("module.") else key


def _write_whole(path: str, write: Callable[[str], Any]) -> None:
    """Let ``write`` fill a file aside, then move it to ``path``: an interruption leaves the old file as it was."""
    aside = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.tmp")
    try:
        write(aside)
        os.replace(aside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(aside)


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write a checkpoint, and its name into the file ``checkpoint`` beside it.

    Args:
        state: what to save; needs ``state_dict`` and ``epoch`` (epochs done).
        save_dir: folder, created if missing.
        is_best: also copy the file to ``model-best.pth.tar``.
        remove_module_from_keys: drop a leading ``module.`` from the names in ``state_dict``.
        model_name: file name; ``model.pth.tar-<epoch>`` if empty.
    """
    mkdir_if_missing(save_dir)
    if remove_module_from_keys:
        state = {**state, "state_dict": OrderedDict((_without_module(k), v) for k, v in state["state_dict"].items())}
    path = os.path.join(save_dir, model_name or epoch_name(state["epoch"]))
    _write_whole(path, lambda aside: torch.save(state, aside))
    logger.info("Checkpoint saved to %s", path)

    def write_pointer(aside: str) -> None:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(os.path.basename(path) + "\n")

    _write_whole(os.path.join(save_dir, POINTER_NAME), write_pointer)
    if is_best:
        best = os.path.join(save_dir, BEST_NAME)
        _write_whole(best, lambda aside: shutil.copyfile(path, aside))
        logger.info('Best checkpoint saved to "%s"', best)


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """Read a checkpoint into CPU memory.

    Only tensors and plain values are read, and (as inert stand-ins) the schedulers and optimizers in files of Dassl's.

    Args:
        fpath: file.

    Returns:
        The saved dictionary.

    Raises:
        ValueError: no path, or a file that is damaged or holds objects of any other kind.
        FileNotFoundError: there is no such file.
    """
    if fpath is None:
        raise ValueError("File path is None")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f'File is not found at "{fpath}"')
    try:
        with legacy_classes_allowed():
            return torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in anything, an IndexError among others
        # Of torch's text only the fact is kept, not the advice to load the file unsafely.
        reason = re.split("trusted source. |WeightsUnpickler error: ", " ".join(str(error).split()))[-1]
        reason = re.split(" Please | Check the doc", reason)[0] or type(error).__name__
        raise ValueError(f'Unable to load checkpoint from "{fpath}": {reason[:300]}') from error


def read_latest(fdir: str) -> tuple[str, dict[str, Any]]:
    """Return path and content of the checkpoint that a folder's file ``checkpoint`` names.

    Raises:
        FileNotFoundError: nothing was saved there.
    """
    pointer = os.path.join(fdir, POINTER_NAME)
    if not os.path.isfile(pointer):
        raise FileNotFoundError(f'No checkpoint to resume from: there is no file "{pointer}"')
    with open(pointer, encoding="utf-8") as file:
        path = os.path.join(fdir, file.readline().strip())
    logger.info('Loading checkpoint from "%s"', path)
    return path, load_checkpoint(path)


def restore(
    path: str, checkpoint: dict[str, Any], model: nn.Module, optimizer: Any = None, scheduler: Any = None
) -> int:
    """Load a checkpoint into a model and, if given and saved, its optimizer and scheduler.

    Returns:
        Epochs done.

    Raises:
        ValueError: the checkpoint is of another model (other classes, another depth, ...).
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(
            f'The checkpoint "{path}" is of another model: {" ".join(str(error).split())[:600]}'
        ) from error
    logger.info("Loaded model weights")
    # The scheduler comes last: it sets the rate from its own settings, not from those of the saved run.
    for name, target in (("optimizer", optimizer), ("scheduler", scheduler)):
        if target is not None and checkpoint.get(name) is not None:
            target.load_state_dict(checkpoint[name])
            logger.info("Loaded %s", name)
    logger.info("Previous epoch: %s", checkpoint["epoch"])
    return int(checkpoint["epoch"])


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Load the last checkpoint saved in a folder.

    Args:
        fdir: folder of a model, with the file ``checkpoint``.
        model: takes the weights; names and shapes must match.
        optimizer: takes its saved state (optional).
        scheduler: takes its saved state (optional).

    Returns:
        Epochs done, which is the epoch to start from.

    Raises:
        FileNotFoundError: nothing was saved there.
        ValueError: the checkpoint is of another model.
    """
    path, checkpoint = read_latest(fdir)
    return restore(path, checkpoint, model, optimizer, scheduler)


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Load those weights of a file whose names and shapes fit the model; the others are logged and left out.

    Args:
        model: changed in place.
        weight_path: a checkpoint, or a bare state dict.
    """
    checkpoint = load_checkpoint(weight_path)
    saved = {_without_module(k): v for k, v in checkpoint.get("state_dict", checkpoint).items()}
    own = model.state_dict()
    fitting = {k: v for k, v in saved.items() if k in own and own[k].shape == getattr(v, "shape", None)}
    model.load_state_dict({**own, **fitting})
    if not fitting:
        warnings.warn(f"Cannot load {weight_path} (check the key names manually)", stacklevel=2)
        return
    logger.info("Successfully loaded pretrained weights from %s", weight_path)
    left_out = [k for k in saved if k not in fitting]
    if left_out:
        logger.info("Layers discarded due to unmatched keys or size: %s", left_out)
