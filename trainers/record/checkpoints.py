"""The checkpoint files of a run."""

import re
from pathlib import Path


def checkpoint_path(folder: Path, epoch: int | None) -> Path:
    """Return a checkpoint file of a run.

    Args:
        folder: the run's model folder.
        epoch: the epoch to load; None takes the best one on validation if that was kept, else the last one.

    Raises:
        FileNotFoundError: there is no such checkpoint; the message names those that exist.
    """
    saved = {int(m[1]): f for f in folder.glob("model.pth.tar-*") if (m := re.search(r"-(\d+)$", f.name))}
    if epoch is None:
        best = folder / "model-best.pth.tar"
        if best.is_file():
            return best
        if saved:
            return saved[max(saved)]
    elif epoch in saved:
        return saved[epoch]
    asked = "checkpoint" if epoch is None else f"epoch {epoch}"
    if folder.is_dir():
        found = f"it holds epochs {', '.join(map(str, sorted(saved))) or 'none'}"
    else:
        others = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        found = f"the folder does not exist; {folder.parent} holds {', '.join(others) or 'nothing'}"
    raise FileNotFoundError(f"no {asked} in {folder}: {found}")
