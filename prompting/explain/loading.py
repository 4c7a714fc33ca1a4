"""A trained run, read from its folder: the model with its learned tensors, and how images are prepared."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from prompting.checkpoint import load_learned
from prompting.images import read_image
from prompting.methods import METHODS, PromptedCLIP
from prompting.ot.checks import check_choice
from prompting.run_folder import read_checkpoint, read_json


@dataclass(frozen=True)
class TrainedRun:
    """A run's model, ready for evaluation, and its settings."""

    folder: Path
    model: PromptedCLIP[Any]
    classnames: list[str]
    config: dict[str, Any]
    turn: bool = False
    """Whether image files are turned as their EXIF data say."""

    @property
    def method(self) -> str:
        """Registry name of the method."""
        return self.config["TRAINER"]["NAME"]

    def crop(self, path: str | os.PathLike[str]) -> Image.Image:
        """Return the part of an image file that the model sees, in its input size."""
        settings = self.config["INPUT"]
        mode = T.InterpolationMode(settings["INTERPOLATION"])
        resize = T.Resize(max(settings["SIZE"]), interpolation=mode)
        return T.Compose([resize, T.CenterCrop(settings["SIZE"])])(read_image(path, self.turn))

    def tensor(self, cropped: Iterable[Image.Image]) -> Tensor:
        """Return cropped images as one normalised tensor (B, 3, H, W)."""
        settings = self.config["INPUT"]
        normalise = T.Normalize(settings["PIXEL_MEAN"], settings["PIXEL_STD"])
        return torch.stack([normalise(T.functional.to_tensor(image)) for image in cropped])


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of ``run.json``, or, of an evaluation, of ``results.json``.

    Raises:
        FileNotFoundError: the folder has neither.
    """
    for name in ("run.json", "results.json"):
        if (folder / name).is_file():
            return read_json(folder / name)
    raise FileNotFoundError(f"{folder} is no folder of a run: it has neither run.json nor results.json")


def checkpoint_file(folder: Path) -> Path | None:
    """Return the checkpoint of a run: the best one on validation if kept, else the last; None if it learned nothing.

    An evaluation names the checkpoint that it loaded in its ``results.json``.
    """
    if best := sorted(folder.glob("*/model-best.pth.tar")):
        return best[0]
    saved = {int(m[1]): f for f in folder.glob("*/model.pth.tar-*") if (m := re.search(r"-(\d+)$", f.name))}
    if saved:
        return saved[max(saved)]
    loaded = read_settings(folder).get("loaded_from")
    return Path(loaded) if loaded else None


def load_run(folder: str | Path, *, backbone: str = "", classnames: Iterable[str] = ()) -> TrainedRun:
    """Load the model of a run.

    Args:
        folder: output folder of a training, or of an evaluation, which names the checkpoint that it loaded.
        backbone: name or path of the CLIP; "" takes the run's.
        classnames: other class names than the run's.

    Raises:
        FileNotFoundError: the folder or its checkpoint does not exist.
        ValueError: the method is unknown here, or the checkpoint does not fit.
    """
    folder = Path(folder)
    record = read_settings(folder)
    config = record["config"]
    path = checkpoint_file(folder)
    made = _model_entry(folder, path)
    method = made.get("method", config["TRAINER"]["NAME"])
    check_choice("method", method, sorted(METHODS))
    model_class = METHODS[method]
    options = made["options"] if "options" in made else _options_of_node(config, model_class)
    names = list(classnames) or record["classnames"]
    data = {"dataset": config["DATASET"]["NAME"], "template": config["DATASET"].get("TEMPLATE", "")}
    file = made.get("backbone_file", "")
    known = file if Path(file).is_file() else config["MODEL"]["BACKBONE"]["NAME"]
    model = model_class(backbone or known, names, model_class.options_class(**options), **data).eval()
    if path is None and model.state_dict():
        raise FileNotFoundError(f"{folder} holds no checkpoint of {method}: the run saved none, or was not finished")
    if path is not None:
        state = read_checkpoint(path)
        wanted = model.state_dict()
        part = next((name for name, child in model.named_children() if _fits(name, wanted, state)), "")
        # Some methods save their learner alone, without its name.
        load_learned(model.get_submodule(part), state, str(path), None if part else model.released_names)
    return TrainedRun(folder, model, names, config, made.get("images", {}).get("turn", False))


def _model_entry(folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """Return how the model is made, the entry ``model`` of ``run.json`` where one is; an evaluation has none itself."""
    for place in (folder, *([checkpoint.parent.parent] if checkpoint else [])):
        if (place / "run.json").is_file():
            return read_json(place / "run.json").get("model") or {}
    return {}


def _options_of_node(config: dict[str, Any], model_class: type[PromptedCLIP[Any]]) -> dict[str, Any]:
    """Return the options in the method's config node, for runs whose ``run.json`` has no entry ``model``."""
    node: dict[str, Any] = next((value for key, value in config["TRAINER"].items() if key != "NAME"), {})
    return {name: node[name.upper()] for name in model_class.options_class.defaults() if name.upper() in node}


def _fits(part: str, wanted: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    named = [name for name in wanted if name.startswith(f"{part}.")]
    return bool(named) and not set(wanted) & set(state) and all(name[len(part) + 1 :] in state for name in named)
