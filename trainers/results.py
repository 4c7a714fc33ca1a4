"""What a run leaves beside its checkpoints: ``run.json`` (what was asked) and ``results.json`` (what came out)."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from prompting.checkpoint import learned_state

# Settings that may differ between two parts of one run: where and how fast it runs, what it prints and evaluates.
FREE_KEYS = (
    "OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "VERSION", "DATASET.ROOT", "DATALOADER.NUM_WORKERS",
    "TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ", "TEST",
)  # fmt: skip
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "Pillow")


def plain(node: Any) -> Any:
    """Return a config node as plain dicts and lists, ready for JSON."""
    if isinstance(node, CfgNode):
        return {key: plain(value) for key, value in node.items()}
    return list(node) if isinstance(node, tuple) else node


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as one dict with dotted keys, without the keys that are free to differ."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix + key
        if name in FREE_KEYS:
            continue
        leaves.update(flat(value, name + ".") if isinstance(value, dict) else {name: value})
    return leaves


def own_config(trainer: Any) -> dict[str, Any]:
    """Return the resolved config of a run, of the ``TRAINER`` node only the method's own part."""
    config = plain(trainer.cfg)
    config["TRAINER"] = {key: config["TRAINER"][key] for key in ("NAME", trainer.node) if key in config["TRAINER"]}
    return config


def write_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON; an interruption leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def check_same_run(trainer: Any) -> None:
    """Write ``run.json``; where there is one, raise ``ValueError`` unless it asks for the same run.

    A folder belongs to one run: going on in it with other settings or classes would mix two.
    """
    folder = Path(trainer.cfg.RESUME or trainer.output_dir)
    asked = {"config": own_config(trainer), "classnames": list(trainer.dm.dataset.classnames)}
    path = folder / "run.json"
    if path.is_file():
        before = json.loads(path.read_text())
        old, new = flat(before["config"]), flat(asked["config"])
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{folder} holds a run with other settings: {key} was {old.get(key)!r} and is now {new.get(key)!r}"
                f"{f' ({len(changed)} keys differ)' if len(changed) > 1 else ''}; give another --output-dir"
            )
        if before["classnames"] != asked["classnames"]:
            raise ValueError(f"{folder} holds a run on other classes; give another --output-dir")
    write_atomically(Path(trainer.output_dir) / "run.json", asked)


def record_result(trainer: Any, split: str, accuracy: float, seconds: float) -> None:
    """Add the result of evaluating on ``split`` to ``OUTPUT_DIR/results.json``.

    Args:
        trainer: a ``PromptTrainer`` that has just evaluated.
        split: "test" or "val".
        accuracy: in percent, full precision.
        seconds: time of the evaluation.
    """
    data, cfg = trainer.dm.dataset, trainer.cfg
    images = len((data.val if split == "val" else None) or data.test)
    metrics = dict(getattr(trainer, "test_results", {}).get(split, {"accuracy": accuracy}))
    entry = {**metrics, "images": images, "seconds": seconds, "ms_per_image": 1000 * seconds / images}
    result = {
        "method": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "epochs": trainer.max_epoch,
        "learned_parameters": sum(tensor.numel() for tensor in learned_state(trainer.model).values()),
        "loaded_from": getattr(trainer, "loaded_from", None),
        "train_seconds": getattr(trainer, "train_seconds", None),
        "peak_memory_mb": peak_memory_mb(trainer.device),
        "device": device_name(trainer.device),
        "precision": str(trainer.precision.name),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "train_images_sha256": listing_hash(data.train_x, cfg.DATASET.ROOT),
        "test_images_sha256": listing_hash(data.test, cfg.DATASET.ROOT),
        "classnames": list(data.classnames),
        "config": own_config(trainer),
        "metrics": {split: entry},
    }
    path = Path(trainer.output_dir) / "results.json"
    if path.is_file():
        before = json.loads(path.read_text())
        same = flat(before["config"]) == flat(result["config"]) and before["loaded_from"] == result["loaded_from"]
        if same:
            result["metrics"] = {**before["metrics"], **result["metrics"]}
            result["train_seconds"] = result["train_seconds"] or before["train_seconds"]
        else:  # another run's: keep it under the time it was written
            stamp = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(path.stat().st_mtime))
            path.rename(path.with_name(f"results-{stamp}.json"))
    write_atomically(path, result)


def listing_hash(items: Any, root: str) -> str:
    """Return the SHA-256 of a list of images: relative path and label of each, in order."""
    lines = (f"{os.path.relpath(item.impath, root or '.')}\t{item.label}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory held so far, in MB: of the GPU, or of the process where there is none."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or "cpu" with the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"
