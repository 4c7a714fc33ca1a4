"""Folders of tested runs, with pictures, predictions and a random model of a tiny CLIP."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from dassl.engine import TRAINER_REGISTRY
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from prompting.clip import load_clip
from tests.reference.clip_states import vit_state
from tests.reference.configs import default_cfg
from trainers.record.runs import method_config, model_settings

CLASSES = ["red_fox", "blue <jay>", "green & gold"]
PER_CLASS = 4


def tiny_clip(folder: Path) -> str:
    """Write a random CLIP for images of 12 x 12 pixels and return its path."""
    path = folder / "tiny.pt"
    torch.save(vit_state(), path)
    return str(path)


def draw_pictures(root: Path) -> list[str]:
    """Write pictures of noise, ``PER_CLASS`` for each class, and return their paths below ``root``."""
    stream, paths = np.random.RandomState(0), []
    for label in range(len(CLASSES)):
        for i in range(PER_CLASS):
            paths.append(f"pictures/{label}/{i}.png")
            (root / paths[-1]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stream.randint(0, 255, (16, 20, 3), dtype=np.uint8)).save(root / paths[-1])
    return paths


def write_run(folder: Path, method: str, clip: str, root: Path, guesses: list[int], *words: object):
    """Write the folder of a run that predicts ``guesses`` for the pictures below ``root``; return its model.

    Args:
        folder: output folder.
        method: registry name.
        clip: path of the CLIP.
        root: folder of the pictures, which are drawn if they are missing.
        guesses: predicted class of each picture.
        *words: KEY, VALUE words of the config.
    """
    cfg = default_cfg(
        *["TRAINER.NAME", method, "DATASET.NAME", "Tiny", "DATASET.ROOT", str(root), "MODEL.BACKBONE.NAME", clip],
        *["INPUT.SIZE", (12, 12), "INPUT.INTERPOLATION", "bicubic", *words],
    )
    torch.manual_seed(0)
    trainer = TRAINER_REGISTRY.get(method)
    model = trainer.build_clip(cfg, CLASSES, load_clip(clip)).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(0.1 * torch.randn_like(tensor))
    config, paths = method_config(cfg, method), draw_pictures(root)
    folder.mkdir(parents=True)
    data, learned = SimpleNamespace(dataset=SimpleNamespace(classnames=CLASSES)), list(model.state_dict())
    names = ("model_class", "model_name", "saved_part", "options", "settings")
    known = {name: getattr(trainer, name, "") for name in names}
    made = model_settings(SimpleNamespace(cfg=cfg, dm=data, get_model_names=lambda: learned, **known)).as_json()
    (folder / "run.json").write_text(json.dumps({"config": config, "classnames": CLASSES, "model": made}))
    if model.state_dict():
        saved = model.get_submodule(trainer.saved_part)
        (folder / trainer.model_name).mkdir()
        torch.save({"state_dict": saved.state_dict()}, folder / trainer.model_name / "model.pth.tar-2")
    labels = [i // PER_CLASS for i in range(len(paths))]
    hits = [label == guess for label, guess in zip(labels, guesses)]
    by_class = [100 * float(np.mean(hits[k * PER_CLASS : (k + 1) * PER_CLASS])) for k in range(len(CLASSES))]
    test = {"accuracy": 100 * float(np.mean(hits)), "macro_f1": 50.0, "ms_per_image": 2.0, "class_accuracy": by_class}
    results = {
        "method": method, "dataset": "Tiny", "classes": "all", "shots": 2, "seed": 1, "backbone": clip, "epochs": 2,
        "learned_parameters": sum(t.numel() for t in model.state_dict().values()), "train_seconds": 3.0,
        "metrics": {"test": test}, "config": config, "classnames": CLASSES, "loaded_from": None,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        top = [f"{name}_{i}" for i in (1, 2, 3) for name in ("top", "probability")]
        writer.writerow(["path", "label", "class", "predicted", "predicted_class", "correct", *top])
        for i, (path, label, guess) in enumerate(zip(paths, labels, guesses)):
            others = [k for k in range(3) if k != guess]
            likeliest = [guess, 0.9 - i / 100, others[0], 0.06, others[1], 0.02]
            writer.writerow([path, label, CLASSES[label], guess, CLASSES[guess], int(label == guess), *likeliest])
    write_curves(folder)
    return model


def write_curves(folder: Path) -> None:
    """Write a log and TensorBoard's file of 2 epochs of 3 batches, in which the loss halves with every epoch."""
    (folder / "log.txt").write_text("epoch [1/2] batch [1/3] time 0.1 (0.1)\n")
    writer = SummaryWriter(str(folder / "tensorboard"))
    for step in range(6):
        writer.add_scalar("train/loss", 2.0 ** -(step // 3), step)
        writer.add_scalar("train/acc", 50 + step, step)
        writer.add_scalar("train/lr", 0.1, step)
    for epoch in range(2):
        for level, entropy, uniform in (("prompt", 2.7, 2.75), ("token", 4.5, 4.75)):
            writer.add_scalar(f"train/transport_{level}_entropy", entropy, epoch)
            writer.add_scalar(f"train/transport_{level}_uniform_entropy", uniform, epoch)
            writer.add_scalar(f"train/transport_{level}_not_converged", 0.25, epoch)
    writer.close()
