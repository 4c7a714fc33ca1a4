"""``run.json``: the settings of the run that owns an output folder, and its training time."""

import json
import os
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, TrainerX
from yacs.config import CfgNode

from prompting.checkpoint import learned_state, tensor_hash
from prompting.clip import checkpoint_file
from prompting.run_folder import POINTER_NAME, ModelSettings, checkpoint_path
from prompting.torch_files import read_pickled
from trainers.record.files import Json, read_json, write_json, writes
from trainers.record.log import logger

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
    """Return a resolved config as plain dicts and lists, without the keys of other methods than ``method``."""
    config, trainer = json.loads(json.dumps(cfg)), TRAINER_REGISTRY.get(method)
    node = getattr(trainer, "node", method)
    config["TRAINER"] = {key: config["TRAINER"][key] for key in ("NAME", node) if key in config["TRAINER"]}
    if hasattr(trainer, "settings"):
        config["TRAINER"].pop(node, None)  # it may hold keys of methods that share it
        others = map(TRAINER_REGISTRY.get, TRAINER_REGISTRY.registered_names())
        for top in {key.split(".")[0] for other in others for key in getattr(other, "other_keys", {}).values()}:
            if top not in get_cfg_default():  # such as LOSS of ProGrad
                config.pop(top, None)
        for key, value in json.loads(json.dumps(trainer.settings(cfg))).items():
            *nodes, leaf = trainer.full_key(key).split(".")
            reduce(lambda inner, name: inner.setdefault(name, {}), nodes, config)[leaf] = value
    return config


def changed_keys(before: Json, now: Json) -> list[tuple[str, Any, Any]]:
    """Return (key, old, new) of the settings that differ; keys that only one of the configs has do not count.

    ``DATASET.ROOT`` counts for custom data, where it names the data and not the folder of all data sets.
    """
    old, new = flat(before), flat(now)
    for leaves, config in ((old, before), (new, now)):
        if root_is_data(config.get("DATASET", {}).get("NAME")):
            leaves["DATASET.ROOT"] = os.path.realpath(os.path.expanduser(config["DATASET"]["ROOT"]))
    return [(key, old[key], new[key]) for key in sorted(old) if key in new and old[key] != new[key]]


def root_is_data(name: Any) -> bool:
    """Return whether ``DATASET.ROOT`` names the data of a registered data set, and not the folder of all data sets."""
    return name in DATASET_REGISTRY.registered_names() and getattr(DATASET_REGISTRY.get(name), "root_is_data", False)


def describe_run(trainer: TrainerX) -> Json:
    """Return what defines a run: settings, class names, and the hash of the prompts that it starts from."""
    config = method_config(trainer.cfg, trainer.cfg.TRAINER.NAME)
    start = getattr(trainer, "start_sha256", None)
    return {"config": config, "classnames": list(trainer.dm.dataset.classnames), "start_sha256": start}


def model_settings(trainer: Any) -> ModelSettings:
    """Return what the library needs to rebuild the model of a ``PromptTrainer`` (``prompting.classifier``)."""
    cfg, learns = trainer.cfg, bool(trainer.get_model_names())
    images = {"size": list(cfg.INPUT.SIZE), "interpolation": cfg.INPUT.INTERPOLATION}
    if "normalize" in cfg.INPUT.TRANSFORMS:
        images |= {"mean": list(cfg.INPUT.PIXEL_MEAN), "std": list(cfg.INPUT.PIXEL_STD)}
    else:
        images |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    turn = cfg.INPUT.get("EXIF")  # None: the data set decides
    images["turn"] = bool(getattr(trainer.dm.dataset, "turn_images", False) if turn is None else turn)
    return ModelSettings(
        method=trainer.model_class.name,
        options=json.loads(json.dumps(vars(trainer.options(cfg)))),
        classnames=tuple(trainer.dm.dataset.classnames),
        backbone=cfg.MODEL.BACKBONE.NAME,
        backbone_file=checkpoint_file(cfg.MODEL.BACKBONE.NAME),
        dataset=cfg.DATASET.NAME,
        template=cfg.DATASET.get("TEMPLATE", ""),
        precision=trainer.settings(cfg)["PREC"],
        checkpoint=trainer.model_name if learns else "",
        saved_part=trainer.saved_part,
        images=images,
    )


def write_run(trainer: TrainerX, **more: Any) -> None:
    """Write ``run.json``: :func:`describe_run`, how the library makes the model, and ``more``."""
    if writes():
        content = {**describe_run(trainer), "model": model_settings(trainer).as_json(), **more}
        write_json(content, Path(trainer.output_dir) / "run.json")


def check_same_run(trainer: TrainerX) -> None:
    """Write ``run.json``; where one exists, raise ``ValueError`` unless it describes the same run.

    A folder belongs to one run, defined by settings, classes and initial prompts. A run that saved nothing does not
    claim its folder.
    """
    start = getattr(trainer, "start_file", str)()
    trainer.start_sha256 = tensor_hash(learned_state(trainer.model)) if start else None
    asked = describe_run(trainer)
    times: dict[str, float] = {}
    for folder in dict.fromkeys((Path(trainer.cfg.RESUME or trainer.output_dir), Path(trainer.output_dir))):
        path = folder / "run.json"
        if not path.is_file() or not (any(folder.glob("*/checkpoint")) or (folder / "results.json").is_file()):
            continue
        before = read_json(path)
        compare_runs(trainer, before, asked, str(folder), grows=folder != Path(trainer.output_dir))
        for _, old, new in changed_keys(before["config"], asked["config"]):  # OPTIM.MAX_EPOCH alone may differ
            logger.info(f"{folder} holds a run of {old} epochs; it goes on with the learning rates of {new} epochs")
        seconds = before.get("train_seconds")
        times.update(seconds if isinstance(seconds, dict) else {})
    write_run(trainer, train_seconds=times)


def compare_runs(trainer: TrainerX, before: Json, asked: Json, where: str, grows: bool = False) -> None:
    """Raise ``ValueError`` unless the record ``before``, found at ``where``, describes the run ``asked`` (both as from
    ``describe_run``); with ``grows``, this run may have more epochs."""
    for key in ("config", "classnames"):
        if not isinstance(before.get(key), type(asked[key])):
            raise ValueError(f"{where} has no {key} in its run.json; move it away, or give another --output-dir")
    changed = changed_keys(before["config"], asked["config"])
    key, old, new = changed[0] if changed else ("", 0, 0)
    if changed and not (grows and len(changed) == 1 and key == "OPTIM.MAX_EPOCH" and new > old):
        raise ValueError(
            f"{where} holds a run with other settings: {key} was {old!r} and is now {new!r}"
            f"{f' ({len(changed)} keys differ)' if len(changed) > 1 else ''}; give another --output-dir"
            f"{f', with --resume {where} to train longer' if key == 'OPTIM.MAX_EPOCH' and new > old else ''}"
        )
    if before["classnames"] != asked["classnames"]:
        raise ValueError(f"{where} holds a run on other classes; give another --output-dir")
    if before.get("start_sha256", asked["start_sha256"]) != asked["start_sha256"]:
        found = f"a run that started from other prompts than {getattr(trainer, 'start_file', str)()} holds now"
        raise ValueError(f"{where} holds {found}; give another --output-dir")


def checkpoint_record(trainer: TrainerX) -> Json:
    """Return what a checkpoint says of its run: :func:`describe_run`, finished epochs, and on what it was computed."""
    return {
        **describe_run(trainer),
        "epoch": trainer.epoch + 1,
        "torch": str(torch.__version__),
        "device": torch.device(trainer.device).type,
    }


def check_checkpoint(trainer: TrainerX, record: Json) -> None:
    """Raise ``ValueError`` if the record in a checkpoint is that of another run than the one that resumes from it, or
    of an unfinished one with another number of data workers, which draw the random crops."""
    where, asked = f"the checkpoint in {trainer.resumed_from}", checkpoint_record(trainer)
    compare_runs(trainer, record, asked, where, grows=Path(trainer.resumed_from) != Path(trainer.output_dir))
    before, now = (one["config"]["DATALOADER"]["NUM_WORKERS"] for one in (record, asked))
    if before != now and record["epoch"] < trainer.max_epoch:
        raise ValueError(
            f"{where} was written with DATALOADER.NUM_WORKERS {before} and cannot go on with {now}: the workers draw "
            f"the random crops. Set it to {before}, or give another --output-dir"
        )
    for key in ("torch", "device"):
        if record[key] != asked[key] and record["epoch"] < trainer.max_epoch:
            logger.warning(f"Resuming on {key} {asked[key]} what began on {record[key]}: the last digits may differ")


def record_epoch(trainer: TrainerX) -> None:
    """Write the training time up to the last epoch to ``run.json``, for a run that is resumed."""
    if writes():
        path = Path(trainer.output_dir) / "run.json"
        content = read_json(path)
        content["train_seconds"][str(trainer.epoch + 1)] = trainer.train_seconds
        write_json(content, path)


def seconds_before(trainer: TrainerX) -> float:
    """Return the training time of the epochs before the first one of this process; 0 for a new run."""
    path = Path(trainer.output_dir) / "run.json"  # other processes may be here before rank 0 has written it
    return read_json(path)["train_seconds"].get(str(trainer.start_epoch), 0.0) if writes() else 0.0


def finished_epochs(run: Path) -> int:
    """Return the number of epochs after which a run would resume; 0 if it would start from the beginning."""
    epochs = [0]
    for pointer in run.glob(f"*/{POINTER_NAME}"):
        try:
            epochs.append(read_pickled(checkpoint_path(pointer.parent, None, best=False))["epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(epochs)
