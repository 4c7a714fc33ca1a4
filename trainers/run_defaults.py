"""Defaults of a command line: the settings of the run to evaluate, and the output folder."""

from pathlib import Path

from yacs.config import CfgNode

from trainers.record.files import Json, read_json
from trainers.record.runs import root_is_data

# Settings of a trained run that its evaluation does not take: folders, resources, and files with initial weights, which
# the run's checkpoints replace.
NOT_TAKEN = ("OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "MAX_MEMORY_GB", "INIT_WEIGHTS", "PRETRAIN_DIR")


def take_settings(cfg: CfgNode, run: str, other_data: bool) -> None:
    """Merge the settings in ``run.json`` of a trained run, if there are any, into a config.

    ``other_data`` leaves out the keys of ``DATASET``, because the command line names a data set.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(run, "run.json")
    if not run or not path.is_file():
        return
    config = read_json(path).get("config", {})
    if other_data:
        config.pop("DATASET", None)
    _merge(cfg, config)


def _merge(node: CfgNode, values: Json) -> None:
    """Set the keys of ``node`` to ``values``, node by node; skip unknown keys, which another version wrote."""
    for key, value in values.items():
        if key in NOT_TAKEN or key not in node:
            continue
        if isinstance(node[key], CfgNode):
            _merge(node[key], value)
        else:
            node[key] = tuple(value) if isinstance(node[key], tuple) else value


def output_folder(cfg: CfgNode, method_file: str, data_file: str, run: str = "") -> str:
    """Return the default output folder of a run: ``output/<data set>/<method>/<config>/seed<seed>``, or
    ``<run>/eval/<data set>_<classes>`` for an evaluation of the trained ``run``.

    A custom data set is named after its folder or file, others after their YAML file.
    """
    data = Path(data_file).stem if data_file else cfg.DATASET.NAME.lower()
    if root_is_data(cfg.DATASET.NAME):
        data = Path(cfg.DATASET.ROOT).resolve().stem or data
    if run:
        return str(Path(run, "eval", f"{data}_{cfg.DATASET.get('SUBSAMPLE_CLASSES', 'all')}"))
    config = Path(method_file).stem if method_file else "default"
    return str(Path("output", data, cfg.TRAINER.NAME, config, f"seed{cfg.SEED}"))
