"""Reads the folder of a run, ``run.json`` and checkpoints, without Dassl or data sets."""

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from prompting.checkpoint import read_state_dict
from prompting.ot.checks import did_you_mean

BEST_NAME = "model-best.pth.tar"
POINTER_NAME = "checkpoint"  # a file with the name of the newest checkpoint


@dataclass(frozen=True)
class ModelSettings:
    """The settings that rebuild the model of a run: the entry ``model`` of ``run.json``, and the class names."""

    method: str  # name in prompting.methods.METHODS
    options: Mapping[str, Any]  # fields of the method's options class
    classnames: tuple[str, ...]
    backbone: str  # argument of load_clip
    backbone_file: str  # absolute path of its file; "" if load_clip finds it by its name
    dataset: str  # registry name
    template: str
    precision: str
    checkpoint: str  # folder of the checkpoints in the run's folder, or a file; "" if nothing is learned
    saved_part: str  # submodule that a checkpoint holds; "" for the whole model
    images: Mapping[str, Any]  # fields of prompting.images.Preprocess

    @classmethod
    def read(cls, run: str | os.PathLike[str]) -> "ModelSettings":
        """Return the settings in ``run.json`` of a run's folder.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is damaged, or an older version wrote it.
        """
        content, path = read_run(run), Path(run, "run.json")
        model, names = content.get("model"), {field.name for field in fields(cls)} - {"classnames"}
        if not isinstance(model, dict) or names - set(model):
            raise ValueError(
                f"{path} does not say how its model is made (an older version wrote it): "
                "repeat the run's command, which trains nothing twice and adds it"
            )
        known = {name: model[name] for name in names}
        kinds = {"options": dict, "images": dict}
        wrong = next((name for name in sorted(names) if not isinstance(known[name], kinds.get(name, str))), None)
        if wrong is not None:
            raise ValueError(f"{path} is damaged: its {wrong} of model is {known[wrong]!r:.100}")
        return cls(classnames=tuple(content["classnames"]), **known)

    def as_json(self) -> dict[str, Any]:
        """Return the entry ``model`` of ``run.json``."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "classnames"}

    def write(self, folder: Path) -> Path:
        """Make a folder with a ``run.json`` of these settings, and return it."""
        folder.mkdir()
        content = {"classnames": list(self.classnames), "model": self.as_json()}
        (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
        return folder


def read_run(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a run's ``run.json``, or of an evaluation's ``results.json``.

    Raises:
        FileNotFoundError: the file does not exist; the message names runs below the folder.
        ValueError: the file is damaged.
    """
    path = Path(run, "run.json")
    path = path if path.is_file() else path.with_name("results.json")
    if not path.is_file():
        if not path.parent.is_dir():
            above = path.parent.parent
            folders = [p.name for p in above.iterdir() if p.is_dir()] if above.is_dir() else []
            raise FileNotFoundError(f"there is no folder {run}{did_you_mean(path.parent.name, folders)}")
        below = [str(found.parent) for found in sorted(path.parent.rglob("run.json"))[:3]]
        advice = f"; runs below it: {', '.join(below)}" if below else " (a run that was trained or evaluated has one)"
        raise FileNotFoundError(f"{run} is no run: it holds no run.json{advice}")
    content = read_json(path)
    names = content.get("classnames")
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{path} is no file of a run: it holds no class names")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a run.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} instead of keys and values")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} is in it twice")
    return content


def data_folder(root: str | os.PathLike[str]) -> Path:
    """Return the folder that recorded paths are relative to: ``DATASET.ROOT``, or the folder of the file it names."""
    path = Path(os.path.abspath(os.path.expanduser(root)))
    return path.parent if path.is_file() else path


def predicted_images(folder: Path) -> list[tuple[str, int]]:
    """Return (path below the data folder, label) of the test images in a run's predictions.csv.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    table = folder / "predictions.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{folder} has no predictions.csv, which lists the test images: test the run first")
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:  # names of any bytes
            reader = csv.DictReader(file)
            if missing := {"path", "label"}.difference(reader.fieldnames or ()):
                raise ValueError(f"it has no column {min(missing)!r}")
            return [(row["path"], int(row["label"])) for row in reader]
    except (TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{table} is damaged: {error}") from None


def images_of_test(folder: Path, root: str | os.PathLike[str] | None, most: int) -> tuple[list[Path], list[int]]:
    """Return paths and labels of at most ``most`` test images of a run, the classes in turn, from its predictions.csv.

    ``root`` is ``DATASET.ROOT``; None takes the run's.

    Raises:
        FileNotFoundError: predictions.csv or an image is missing.
        ValueError: predictions.csv is damaged.
    """
    place = data_folder(root or read_run(folder)["config"]["DATASET"]["ROOT"])
    rows = [(place / path, label) for path, label in predicted_images(folder)]
    numbers: defaultdict[int, count[int]] = defaultdict(count)  # of the images of each label
    chosen = sorted(rows, key=lambda row: next(numbers[row[1]]))[:most]
    if missing := next((path for path, _ in chosen if not path.is_file()), None):
        raise FileNotFoundError(f"no image {missing}; give the folder of the data sets with --root")
    return [path for path, _ in chosen], [label for _, label in chosen]


def checkpoint_path(folder: Path, epoch: int | None, best: bool = True) -> Path:
    """Return a checkpoint file of a run.

    Args:
        folder: the run's model folder.
        epoch: the epoch to load; None takes the best epoch on validation if it was kept, else the last one.
        best: False: None takes the last epoch.

    Raises:
        FileNotFoundError: the checkpoint does not exist; the message names the existing ones.
    """
    saved = _epochs(folder)
    if epoch is None:
        paths = [folder / BEST_NAME] if best else []
        pointer = folder / POINTER_NAME
        text = pointer.read_text(encoding="utf-8", errors="replace") if pointer.is_file() else ""
        paths += [folder / text.partition("\n")[0].strip(), *([saved[max(saved)]] if saved else [])]
        if file := next((path for path in paths if path.is_file()), None):
            return file
    elif epoch in saved:
        return saved[epoch]
    asked = "checkpoint" if epoch is None else f"epoch {epoch}"
    if folder.is_dir():
        found = f"it holds epochs {', '.join(map(str, sorted(saved))) or 'none'}"
    elif above := _epochs(folder.parent):
        epochs = ", ".join(map(str, sorted(above)))
        found = f"{folder.parent} holds epochs {epochs} itself; name the run's folder, {folder.parent.parent}"
    else:
        others = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        found = f"the folder does not exist; {folder.parent} holds {', '.join(others) or 'no folder'}"
    raise FileNotFoundError(f"no {asked} in {folder}: {found}")


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
                f"{error}; the newest whole checkpoint in its folder is that of epoch {epoch} (--load-epoch {epoch})"
            ) from None
        raise ValueError(f"{error}; no other checkpoint in its folder is whole") from None
