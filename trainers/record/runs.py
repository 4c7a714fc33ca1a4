"""``run.json``: the settings of the run that owns an output folder, and its training time."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.utils import write_json
from torch import Tensor
from yacs.config import CfgNode

from prompting.checkpoint import learned_state
from prompting.clip import checkpoint_file
from prompting.run_folder import ModelSettings

Json = dict[str, Any]
"""The content of a JSON file."""

# Settings that may change when a run is resumed: folders, speed, output and evaluation. DATASET.ROOT may not change for
# custom data, where it names the data (``changed_keys``).
FREE_KEYS = (
    "OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "VERSION", "DATASET.ROOT", "DATALOADER.NUM_WORKERS",
    "DATALOADER.CACHE_MB",
    "TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ", "TRAIN.MAX_MEMORY_GB", "TRAIN.COMPILE",
    "TEST.PER_CLASS_RESULT", "TEST.COMPUTE_CMAT", "TEST.NO_TEST", "TEST.SPLIT",
)  # fmt: skip


def flat(config: Json, prefix: str = "") -> Json:
    """Return a nested config as one dict with dotted keys, without ``FREE_KEYS``."""
    leaves: Json = {}
    for key, value in config.items():
        name = prefix + key
        if name in FREE_KEYS:
            continue
        leaves.update(flat(value, name + ".") if isinstance(value, dict) else {name: value})
    return leaves


def method_config(cfg: CfgNode, method: str) -> Json:
    """Return a resolved config as plain dicts and lists, with only the node of ``method`` under ``TRAINER``."""
    config = json.loads(json.dumps(cfg))
    node = getattr(TRAINER_REGISTRY.get(method), "node", method)
    config["TRAINER"] = {key: config["TRAINER"][key] for key in ("NAME", node) if key in config["TRAINER"]}
    return config


def changed_keys(before: Json, now: Json) -> list[tuple[str, Any, Any]]:
    """Return (key, old, new) of the settings that differ; keys that only one of the configs has do not count.

    ``DATASET.ROOT`` counts for custom data, where it names the data and not the folder of all data sets.
    """
    old, new = flat(before), flat(now)
    for leaves, config in ((old, before), (new, now)):
        if _root_is_data(config.get("DATASET", {})):
            leaves["DATASET.ROOT"] = os.path.realpath(os.path.expanduser(config["DATASET"]["ROOT"]))
    return [(key, old[key], new[key]) for key in sorted(old) if key in new and old[key] != new[key]]


def _root_is_data(data: Json) -> bool:
    name = data.get("NAME")
    return name in DATASET_REGISTRY.registered_names() and getattr(DATASET_REGISTRY.get(name), "root_is_data", False)


def writes() -> bool:
    """Return whether this process writes files: rank 0, or a single process."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank())


def read_json(path: Path) -> Json:
    """Return the content of a JSON file of a run.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); move it away, or give another --output-dir") from None


def tensor_hash(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def model_settings(trainer: Any) -> ModelSettings:
    """Return what the library needs to rebuild the model of a ``PromptTrainer`` (``prompting.classifier``)."""
    cfg, learns = trainer.cfg, bool(trainer.get_model_names())
    names = trainer.model_class.options_class.defaults()
    images = {"size": list(cfg.INPUT.SIZE), "interpolation": cfg.INPUT.INTERPOLATION}
    if "normalize" in cfg.INPUT.TRANSFORMS:
        images |= {"mean": list(cfg.INPUT.PIXEL_MEAN), "std": list(cfg.INPUT.PIXEL_STD)}
    else:
        images |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    return ModelSettings(
        method=trainer.model_class.name,
        options=json.loads(json.dumps({name: cfg.TRAINER[trainer.node][name.upper()] for name in names})),
        classnames=tuple(trainer.dm.dataset.classnames),
        backbone=cfg.MODEL.BACKBONE.NAME,
        backbone_file=checkpoint_file(cfg.MODEL.BACKBONE.NAME),
        dataset=cfg.DATASET.NAME,
        template=cfg.DATASET.get("TEMPLATE", ""),
        precision=cfg.TRAINER[trainer.node].PREC,
        checkpoint=trainer.model_name if learns else "",
        saved_part=trainer.saved_part,
        images=images,
    )


def describe_run(trainer: TrainerX) -> Json:
    """Return the settings of a run in ``run.json``: config, class names, and how the library makes the model."""
    return {
        "config": method_config(trainer.cfg, trainer.cfg.TRAINER.NAME),
        "classnames": list(trainer.dm.dataset.classnames),
        "model": model_settings(trainer).as_json(),
    }


def write_run(trainer: TrainerX) -> None:
    """Write ``run.json`` of a method that learns nothing."""
    if writes():
        write_json(describe_run(trainer), os.path.join(trainer.output_dir, "run.json"))


def check_same_run(trainer: TrainerX) -> None:
    """Write ``run.json``; where one exists, raise ``ValueError`` unless it describes the same run.

    A folder belongs to one run, defined by settings, classes and initial prompts. A run that saved nothing does not
    claim its folder.
    """
    start = getattr(trainer, "start_file", str)()
    trainer.start_sha256 = tensor_hash(learned_state(trainer.model)) if start else None
    asked = {**describe_run(trainer), "start_sha256": trainer.start_sha256}
    times: dict[str, float] = {}
    for folder in dict.fromkeys((Path(trainer.cfg.RESUME or trainer.output_dir), Path(trainer.output_dir))):
        path = folder / "run.json"
        if not path.is_file() or not (any(folder.glob("*/checkpoint")) or (folder / "results.json").is_file()):
            continue
        before = read_json(path)
        changed = changed_keys(before["config"], asked["config"])
        if changed:
            key, old, new = changed[0]
            raise ValueError(
                f"{folder} holds a run with other settings: {key} was {old!r} and is now {new!r}"
                f"{f' ({len(changed)} keys differ)' if len(changed) > 1 else ''}; give another --output-dir"
            )
        if before["classnames"] != asked["classnames"]:
            raise ValueError(f"{folder} holds a run on other classes; give another --output-dir")
        if before.get("start_sha256", trainer.start_sha256) != trainer.start_sha256:
            found = f"a run that started from other prompts than {start} holds now"
            raise ValueError(f"{folder} holds {found}; give another --output-dir")
        times = times or before.get("train_seconds", {})
    if writes():
        write_json({**asked, "train_seconds": times}, os.path.join(trainer.output_dir, "run.json"))


def record_epoch(trainer: TrainerX) -> None:
    """Write the training time up to the last epoch to ``run.json``, for a run that is resumed."""
    if writes():
        path = Path(trainer.output_dir) / "run.json"
        content = read_json(path)
        content["train_seconds"][str(trainer.epoch + 1)] = trainer.train_seconds
        write_json(content, str(path))


def seconds_before(trainer: TrainerX) -> float:
    """Return the training time of the epochs before the first one of this process; 0 for a new run."""
    path = Path(trainer.output_dir) / "run.json"  # other processes may be here before rank 0 has written it
    return read_json(path)["train_seconds"].get(str(trainer.start_epoch), 0.0) if writes() else 0.0
