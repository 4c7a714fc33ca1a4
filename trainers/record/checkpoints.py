"""The checkpoint files of a run."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from prompting.checkpoint import read_state_dict
from prompting.torch_files import read_pickled

BEST_NAME = "model-best.pth.tar"
POINTER_NAME = "checkpoint"  # a file with the name of the newest checkpoint


def checkpoint_path(folder: Path, epoch: int | None, best: bool = True) -> Path:
    """Return a checkpoint file of a run.

    Args:
        folder: the run's model folder.
        epoch: the epoch to load; None takes the best one on validation if that was kept, else the last one.
        best: False takes the last one for None.

    Raises:
        FileNotFoundError: there is no such checkpoint; the message names those that exist.
    """
    saved = _epochs(folder)
    if epoch is None:
        last = [folder / name for name in [_newest(folder)] if name] + ([saved[max(saved)]] if saved else [])
        for path in (*([folder / BEST_NAME] if best else []), *last):
            if path.is_file():
                return path
    elif epoch in saved:
        return saved[epoch]
    asked = "checkpoint" if epoch is None else f"epoch {epoch}"
    if folder.is_dir():
        found = f"it holds epochs {', '.join(map(str, sorted(saved))) or 'none'}"
    elif own := _epochs(folder.parent):
        epochs = ", ".join(map(str, sorted(own)))
        found = f"{folder.parent} holds epochs {epochs} itself; name the run's folder, {folder.parent.parent}"
    else:
        others = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        found = f"the folder does not exist; {folder.parent} holds {', '.join(others) or 'no folder'}"
    raise FileNotFoundError(f"no {asked} in {folder}: {found}")


def finished_epochs(run: Path) -> int:
    """Return the number of epochs after which a run would resume; 0 if it would start from the beginning."""
    epochs = [0]
    for pointer in run.glob(f"*/{POINTER_NAME}"):
        try:
            epochs.append(read_pickled(checkpoint_path(pointer.parent, None, best=False))["epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(epochs)


def _newest(folder: Path) -> str:
    pointer = folder / POINTER_NAME
    text = pointer.read_text(encoding="utf-8", errors="replace") if pointer.is_file() else ""
    return text.partition("\n")[0].strip()


def _epochs(folder: Path) -> dict[int, Path]:
    return {int(m[1]): f for f in folder.glob("model.pth.tar-*") if (m := re.search(r"-(\d+)$", f.name))}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a run's checkpoint.

    Raises:
        ValueError: the file is damaged; the message names the newest whole checkpoint in the folder.
    """
    try:
        return read_state_dict(path)
    except ValueError as error:
        for epoch, other in sorted(_epochs(path.parent).items(), reverse=True):
            try:
                read_state_dict(other)
            except ValueError:
                continue
            raise ValueError(
                f"{error}; the newest whole one there is that of epoch {epoch} (--load-epoch {epoch})"
            ) from None
        raise ValueError(f"{error}; no other checkpoint in that folder is whole") from None
