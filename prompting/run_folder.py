"""The folder of a run as the library reads it: ``run.json`` and the checkpoints; no Dassl and no data set."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from prompting.ot.checks import did_you_mean


@dataclass(frozen=True)
class ModelSettings:
    """Everything that rebuilds the model of a run: the entry ``model`` of ``run.json``, and the class names."""

    method: str  # name in prompting.methods.METHODS
    options: Mapping[str, Any]  # fields of the method's options class
    classnames: tuple[str, ...]
    backbone: str  # as load_clip takes it
    backbone_file: str  # absolute path of its file, "" if load_clip finds it by the name alone
    dataset: str  # registry name
    template: str
    precision: str
    checkpoint: str  # folder of the checkpoints in the run's folder; "" if nothing is learned
    saved_part: str  # submodule that a checkpoint holds; "" for the whole model
    images: Mapping[str, Any]  # fields of prompting.images.Preprocess

    @classmethod
    def read(cls, run: str | os.PathLike[str]) -> ModelSettings:
        """Return the settings in ``run.json`` of a run's folder.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or was written by an older version.
        """
        content = read_run(run)
        model, names = content.get("model"), {field.name for field in fields(cls)} - {"classnames"}
        if not isinstance(model, dict) or names - set(model):
            raise ValueError(
                f"{Path(run, 'run.json')} does not say how its model is made (an older version wrote it): "
                "repeat the run's command, which trains nothing twice and adds it"
            )
        known = {name: model[name] for name in names}
        return cls(classnames=tuple(content["classnames"]), **known)

    def as_json(self) -> dict[str, Any]:
        """Return the entry ``model`` of ``run.json``."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "classnames"}


def read_run(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a run's ``run.json``.

    Raises:
        FileNotFoundError: there is no such file; the message names runs below the folder.
        ValueError: it is damaged.
    """
    path = Path(run, "run.json")
    if not path.is_file():
        if not path.parent.is_dir():
            folders = (
                [p.name for p in path.parent.parent.iterdir() if p.is_dir()] if path.parent.parent.is_dir() else []
            )
            raise FileNotFoundError(f"there is no folder {run}{did_you_mean(path.parent.name, folders)}")
        below = [str(found.parent) for found in sorted(path.parent.rglob("run.json"))[:3]]
        advice = f"; runs below it: {', '.join(below)}" if below else " (a run that was trained or evaluated has one)"
        raise FileNotFoundError(f"{run} is no run: it holds no run.json{advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("classnames"), list):
        raise ValueError(f"{path} is no file of a run: it holds no class names")
    return content


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
