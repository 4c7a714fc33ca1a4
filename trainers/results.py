"""What a run leaves beside its checkpoints: ``run.json`` (what was asked) and ``results.json`` (what came out)."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor
from yacs.config import CfgNode

from prompting.checkpoint import learned_state
from prompting.memory import peak_bytes
from trainers.predictions import Record, set_aside, write_predictions

# Settings that may differ between two parts of one run: where and how fast it runs, what it prints and evaluates.
# DATASET.ROOT may not where it is the data itself (changed_keys).
FREE_KEYS = (
    "OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "VERSION", "DATASET.ROOT", "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_MB",
    "TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ", "TRAIN.MAX_MEMORY_GB", "TRAIN.COMPILE",
    "TEST.PER_CLASS_RESULT", "TEST.COMPUTE_CMAT", "TEST.NO_TEST", "TEST.SPLIT",
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


def method_config(cfg: Any, method: str) -> dict[str, Any]:
    """Return a resolved config as plain dicts, of the ``TRAINER`` node only the part of ``method``."""
    config = plain(cfg)
    node = getattr(TRAINER_REGISTRY.get(method), "node", method)
    config["TRAINER"] = {key: config["TRAINER"][key] for key in ("NAME", node) if key in config["TRAINER"]}
    return config


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (key, then, now) of the settings that differ; keys that one of two versions does not have do not count.

    ``DATASET.ROOT`` counts where it is the data itself, not the folder of all data sets: another root is other data.
    """
    old, new = flat(before), flat(now)
    for leaves, config in ((old, before), (new, now)):
        if _is_own_data(config.get("DATASET", {})):
            leaves["DATASET.ROOT"] = os.path.realpath(os.path.expanduser(config["DATASET"]["ROOT"]))
    return [(key, old[key], new[key]) for key in sorted(old) if key in new and old[key] != new[key]]


def _is_own_data(data: dict[str, Any]) -> bool:
    name = data.get("NAME")
    return name in DATASET_REGISTRY.registered_names() and getattr(DATASET_REGISTRY.get(name), "root_is_data", False)


def writes() -> bool:
    """Return whether this process writes files: of several that share the work, only the first does."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank())


def write_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON; an interruption leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of ours holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); move it away, or give another --output-dir") from None


def check_same_run(trainer: Any) -> None:
    """Write ``run.json``; where there is one, raise ``ValueError`` unless it asks for the same run.

    A folder belongs to one run: going on in it with other settings, classes or prompts to start from would mix two. A
    run that saved nothing leaves its folder free.
    """
    config = method_config(trainer.cfg, trainer.cfg.TRAINER.NAME)
    start = getattr(trainer, "start_file", str)()
    trainer.start_sha256 = tensor_hash(learned_state(trainer.model)) if start else None
    asked = {"config": config, "classnames": list(trainer.dm.dataset.classnames), "start_sha256": trainer.start_sha256}
    times: dict[str, float] = {}
    for folder in dict.fromkeys((Path(trainer.cfg.RESUME or trainer.output_dir), Path(trainer.output_dir))):
        path = folder / "run.json"
        if not path.is_file() or not (any(folder.glob("*/checkpoint")) or (folder / "results.json").is_file()):
            continue
        before = read_json(path)
        changed = changed_keys(before["config"], config)
        if changed:
            key, old, new = changed[0]
            raise ValueError(
                f"{folder} holds a run with other settings: {key} was {old!r} and is now {new!r}"
                f"{f' ({len(changed)} keys differ)' if len(changed) > 1 else ''}; give another --output-dir"
            )
        if before["classnames"] != asked["classnames"]:
            raise ValueError(f"{folder} holds a run on other classes; give another --output-dir")
        if before.get("start_sha256", trainer.start_sha256) != trainer.start_sha256:
            raise ValueError(
                f"{folder} holds a run that started from other prompts than {start} holds now; "
                "give another --output-dir"
            )
        times = times or before.get("train_seconds", {})
    if writes():
        write_atomically(Path(trainer.output_dir) / "run.json", {**asked, "train_seconds": times})


def record_epoch(trainer: Any) -> None:
    """Keep the training time up to the epoch just done in ``run.json``, for a run that is resumed."""
    if not writes():
        return
    path = Path(trainer.output_dir) / "run.json"
    content = read_json(path)
    content["train_seconds"][str(trainer.epoch + 1)] = trainer.train_seconds
    write_atomically(path, content)


def seconds_before(trainer: Any) -> float:
    """Return the training time of the epochs before the one to start with; 0 for a new run."""
    if not writes():  # the file may not be there yet
        return 0.0
    content = read_json(Path(trainer.output_dir) / "run.json")
    return content["train_seconds"].get(str(trainer.start_epoch), 0.0)


def record_result(trainer: Any, split: str, accuracy: float, seconds: float, record: Record) -> None:
    """Add the result of evaluating on ``split`` to ``OUTPUT_DIR/results.json``, and write ``predictions.csv``.

    Results that another run left there, or this one with another outcome, are kept under the time of writing.

    Args:
        trainer: a ``PromptTrainer`` that has just evaluated.
        split: "test" or "val".
        accuracy: in percent, full precision.
        seconds: time of the evaluation.
        record: what was predicted.
    """
    if not writes():
        return
    data, cfg = trainer.dm.dataset, trainer.cfg
    images = len((data.val if split == "val" else None) or data.test)
    metrics = dict(getattr(trainer, "test_results", {}).get(split, {"accuracy": accuracy}))
    entry = {**metrics, "images": images, "seconds": seconds, "ms_per_image": 1000 * seconds / images}
    if record.labels:
        entry["class_accuracy"] = record.class_accuracy(len(data.classnames))
    learned, root = learned_state(trainer.model), data_folder(cfg.DATASET.ROOT)
    result = {
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
        "start_sha256": started_from(trainer),
        "train_seconds": getattr(trainer, "train_seconds", None),
        "peak_memory_mb": peak_memory_mb(trainer.device),
        "device": device_name(trainer.device),
        "precision": str(trainer.precision.name),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}},
        "split_sha256": file_hash(split_file(data)),
        "split_drawn": getattr(data, "split_drawn", None),  # how, where it is not a published one
        "train_images_sha256": listing_hash(data.train_x, root),
        "val_images_sha256": listing_hash(data.val, root) if data.val else None,
        "test_images_sha256": listing_hash(data.test, root),
        "classnames": list(data.classnames),
        "config": method_config(cfg, cfg.TRAINER.NAME),
        "metrics": {split: entry},
    }
    path = Path(trainer.output_dir) / "results.json"
    if path.is_file():
        try:
            before = read_json(path)
        except ValueError:  # cut short: kept as it is, beside the new one
            before = {}
        same = bool(before) and before["loaded_from"] == result["loaded_from"]
        same = same and not changed_keys(before["config"], result["config"])
        if same and (split == "val" or before["metrics"].get(split, entry)["accuracy"] == entry["accuracy"]):
            result["metrics"] = {**before["metrics"], **result["metrics"]}
            result["train_seconds"] = result["train_seconds"] or before["train_seconds"]
        else:
            set_aside(path)
    write_atomically(path, result)
    write_predictions(record, split, trainer.output_dir, root, result["classnames"])


def started_from(trainer: Any) -> str | None:
    """Return the hash of the prompts that a second stage started from; of loaded weights what their run says of it."""
    loaded = getattr(trainer, "loaded_from", None)
    if loaded is None:
        return getattr(trainer, "start_sha256", None)
    said = Path(loaded).parent.parent / "run.json"
    try:
        return json.loads(said.read_text()).get("start_sha256")
    except (OSError, ValueError, AttributeError):  # it says nothing; the result is not to be lost for it
        return None


def data_folder(root: str) -> str:
    """Return the folder that recorded paths are relative to: ``DATASET.ROOT``, or that of the file it names."""
    path = os.path.abspath(os.path.expanduser(root))
    return os.path.dirname(path) if os.path.isfile(path) else path


def listing_hash(items: Any, root: str) -> str:
    """Return the SHA-256 of a list of images: path relative to ``root`` and label of each, in order."""
    lines = (f"{os.path.relpath(item.impath, root)}\t{item.label}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def split_file(data: Any) -> Path | None:
    """Return the file that a data set's split was read from, if there is one: of ours, or of one of CoOp's classes."""
    path = getattr(data, "split_path", None)
    return Path(path) if path and Path(path).is_file() else None


def file_hash(path: Path | None) -> str | None:
    """Return the SHA-256 of a file; None for no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None


def version_of(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed under that name."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the most memory held so far, in MB; None where the system does not say."""
    peak = peak_bytes(device)
    return None if peak is None else peak / 2**20


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or "cpu" with the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"
