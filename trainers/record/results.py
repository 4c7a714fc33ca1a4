"""``results.json``: the metrics of a run, with its settings, data and versions."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch
from dassl.data.datasets import Datum
from dassl.engine import TrainerX

from prompting.checkpoint import learned_state, tensor_hash
from prompting.memory import peak_bytes
from prompting.run_folder import data_folder
from trainers.record.files import Json, file_hash, read_json, write_json, writes
from trainers.record.log import logger
from trainers.record.predictions import RecordingEvaluator, archive, write_predictions
from trainers.record.runs import changed_keys, method_config

PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "Pillow")


def record_result(trainer: TrainerX, split: str, accuracy: float, seconds: float, record: RecordingEvaluator) -> None:
    """Add the result of an evaluation to ``OUTPUT_DIR/results.json``, and write ``predictions.csv``.

    A file of another run, or of this run with another accuracy (in percent), is archived. ``split`` is "test" or "val".
    """
    if not writes():
        return
    data, cfg = trainer.dm.dataset, trainer.cfg
    images = len((data.val if split == "val" else None) or data.test)
    metrics = dict(getattr(trainer, "test_results", {}).get(split, {"accuracy": accuracy}))
    entry = {**metrics, "images": images, "seconds": seconds, "ms_per_image": 1000 * seconds / images}
    if record.labels:
        entry["class_accuracy"] = record.class_accuracy(len(data.classnames))
    result = {**describe(trainer), "metrics": {split: entry}}
    path = Path(trainer.output_dir) / "results.json"
    if path.is_file():
        try:
            before = read_json(path)
        except ValueError:  # truncated: archived below
            before = {}
        same = {"loaded_from", "config", "metrics"} <= set(before) and before["loaded_from"] == result["loaded_from"]
        same = same and not changed_keys(before["config"], result["config"])
        if same and (split == "val" or before["metrics"].get(split, entry)["accuracy"] == entry["accuracy"]):
            result["metrics"] = {**before["metrics"], **result["metrics"]}
            result["train_seconds"] = result["train_seconds"] or before.get("train_seconds")
            result["transport"] = {**before.get("transport", {}), **result["transport"]}
        else:
            archive(path)
    if split == "test":
        result["files"] = {"predictions.csv": None}  # promised, not written yet: the metrics go first
    write_json(result, path)
    try:
        write_predictions(record, split, trainer.output_dir, data_folder(cfg.DATASET.ROOT), result["classnames"])
        if split == "test":
            result["files"] = hashes(path.parent, "predictions.csv", trainer.max_epoch)
            write_json(result, path)
    except OSError as error:
        logger.warning(f"The result is kept, but not the predictions: {error}")


def hashes(folder: Path, predictions: str, epochs: int) -> dict[str, str | None]:
    """Return the SHA-256 of the files that a finished run consists of besides ``results.json``, by name."""
    saved = [path for name in (f"model.pth.tar-{epochs}", "model-best.pth.tar") for path in folder.glob(f"*/{name}")]
    names = [predictions, *(path.relative_to(folder).as_posix() for path in saved)]
    return {name: file_hash(folder / name) for name in names}


def describe(trainer: TrainerX) -> Json:
    """Return everything in ``results.json`` but the metrics: settings, data, learned tensors, machine and versions."""
    data, cfg = trainer.dm.dataset, trainer.cfg
    learned, root = learned_state(trainer.model), data_folder(cfg.DATASET.ROOT)
    device, threads, peak = torch.device(trainer.device), torch.get_num_threads(), peak_bytes(trainer.device)
    return {
        "method": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "shots": cfg.DATASET.NUM_SHOTS,
        "seed": cfg.SEED,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "epochs": trainer.max_epoch,
        "learned_parameters": sum(tensor.numel() for tensor in learned.values()),
        "learned_sha256": tensor_hash(learned),
        "loaded_from": getattr(trainer, "loaded_from", None),
        "start_sha256": start_hash(trainer),
        "train_seconds": getattr(trainer, "train_seconds", None),
        "peak_memory_mb": None if peak is None else peak / 2**20,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({threads} threads)",
        "precision": str(trainer.precision.name),
        "skipped_steps": trainer.precision.skipped.total,  # by the loss scaler, in this process
        "transport": dict(getattr(trainer, "transport", {})),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}},
        "split_sha256": file_hash(getattr(data, "split_path", None)),
        "split_drawn": getattr(data, "split_drawn", None),  # how a split that is not published was drawn
        "image_notes": getattr(data, "image_notes", None),  # what custom data leave out, and unusual images
        "train_images_sha256": listing_hash(data.train_x, root),
        "val_images_sha256": listing_hash(data.val, root) if data.val else None,
        "test_images_sha256": listing_hash(data.test, root),
        "classnames": list(data.classnames),
        "config": method_config(cfg, cfg.TRAINER.NAME),
        **({"note": trainer.model.note} if getattr(trainer.model, "note", "") else {}),
    }


def start_hash(trainer: TrainerX) -> str | None:
    """Return the hash of the prompts that training started from; for loaded weights, the one in their run.json."""
    loaded = getattr(trainer, "loaded_from", None)
    if loaded is None:
        return getattr(trainer, "start_sha256", None)
    try:
        return json.loads((Path(loaded).parent.parent / "run.json").read_text()).get("start_sha256")
    except (OSError, ValueError, AttributeError):  # the result is recorded without it
        return None


def listing_hash(items: Iterable[Datum], root: Path) -> str:
    """Return the SHA-256 of a list of images: path relative to ``root`` and label of each, in order."""
    lines = (f"{os.path.relpath(item.impath, root)}\t{item.label}\n" for item in items)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def version_of(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed under that name."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
