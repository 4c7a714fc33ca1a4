"""Train or evaluate a method on a data set: CoOp's command line.

    python train.py --root data --trainer ALIGN --dataset-config-file configs/datasets/mini_source.yaml \\
        --config-file configs/trainers/ALIGN/mini.yaml --output-dir output/first DATASET.NUM_SHOTS 16
    python train.py --eval-only --model-dir output/first
"""

# ruff: noqa: E402
if __name__ == "__main__":
    from dassl.starting import end_on_ctrl_c

    end_on_ctrl_c("train.py")

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial, reduce
from pathlib import Path
from types import ModuleType

import torch
from dassl.config import check_values, get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import collect_env_info, set_random_seed, setup_logger
from dassl.utils.command import Parser, command
from dassl.utils.registry import check_choice, did_you_mean
from yacs.config import CfgNode

import datasets
import trainers
from trainers.record.files import lock_folder
from trainers.record.runs import finished_epochs
from trainers.run_defaults import output_folder, take_settings
from trainers.run_summary import summary, warn_of_few_images

logger = logging.getLogger("dassl")


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments: CoOp's flags, then KEY VALUE pairs of the config.

    A flag whose ``dest`` is a config key sets that key; if it is not given, the key keeps its value.
    """
    parser = Parser(prog="train.py", doc=__doc__)
    add = parser.add_argument
    add_path = partial(add, type=os.path.expanduser)
    add("--root", dest="DATASET.ROOT", help="folder of the data sets")
    default = "output/<data set>/<method>/<config>/seed<N>"
    add("--output-dir", dest="OUTPUT_DIR", help=f"folder of the run (default: {default})")
    add("--resume", dest="RESUME", help="folder of the run to resume from")
    add("--seed", dest="SEED", type=int, help="seed of all random numbers; negative leaves them unseeded")
    for part in ("source", "target"):
        help_ = f"{part} domains for domain adaptation or generalisation"
        add(f"--{part}-domains", dest=f"DATASET.{part.upper()}_DOMAINS", nargs="+", help=help_)
    add("--transforms", dest="INPUT.TRANSFORMS", nargs="+", help="image transforms")
    add_path("--config-file", default="", help="YAML file of the method")
    add_path("--dataset-config-file", default="", help="YAML file of the data set")
    add("--trainer", dest="TRAINER.NAME", help="name of the method")
    add("--backbone", dest="MODEL.BACKBONE.NAME", help="name or path of the CLIP model")
    add("--head", dest="MODEL.HEAD.NAME", help="name of the head")
    add("--device", help="torch device: cpu, cuda or cuda:N (default: a GPU if there is one)")
    limit = "memory limit of a run (default: none on a CPU, free memory on a GPU)"
    add("--max-memory", dest="TRAIN.MAX_MEMORY_GB", type=float, metavar="GB", help=limit)
    plugin = "Python file that registers a method or data set"
    add_path("--plugin", action="append", default=[], metavar="FILE", help=plugin)
    add("--eval-only", action="store_true", help="evaluate only")
    add_path("--model-dir", default="", help="folder of the run for --eval-only; its settings are the defaults")
    add("--load-epoch", type=int, help="epoch to load (default: the best on validation if kept, else the last)")
    add("--no-train", action="store_true", help="do not train")
    add("--traceback", action="store_true", help="show where an error was raised")  # read by ``command``
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that override the YAML files")
    for word in words:
        if word.startswith("--") and word.endswith("=--"):  # argparse would take it for an empty list
            parser.error(f"{word}: a flag's value cannot be --")
    args = parser.parse_args(words)
    args.opts, known = [word for word in args.opts if word != "--"], parser._option_string_actions
    for i, word in enumerate(args.opts):
        flag = word.partition("=")[0]
        if flag in known or (i % 2 == 0 and word.startswith("-")):
            parser.error(f"{flag} is behind KEY VALUE pairs, where no flag is read: put it before {args.opts[0]}")
    return args


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Return the frozen config: defaults, data set YAML, method YAML, flags, KEY VALUE pairs; later ones override."""
    plugins = [load_plugin(path) for path in args.plugin]  # first: a trainer that they register gets its node below
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    datasets.extend_cfg(cfg)
    for plugin in plugins:
        if hasattr(plugin, "extend_cfg"):
            plugin.extend_cfg(cfg)
    take_settings(cfg, args.model_dir, other_data=bool(args.dataset_config_file))
    for path in (args.dataset_config_file, args.config_file):
        if path:
            check_file(path, "config")
            cfg.merge_from_file(path)
    for key, value in vars(args).items():
        if key.isupper() and value is not None:
            *parents, leaf = key.split(".")
            node = reduce(lambda node, name: node[name], parents, cfg)
            node[leaf] = tuple(value) if isinstance(value, list) else value  # no merge: "--output-dir 2024" is text
    if args.device is not None:
        cfg.USE_CUDA = use_device(args.device)
    cfg.merge_from_list(args.opts)
    trainers.fill_defaults(cfg)
    if args.OUTPUT_DIR is None and cfg.OUTPUT_DIR == get_cfg_default().OUTPUT_DIR:
        cfg.OUTPUT_DIR = output_folder(cfg, args.config_file, args.dataset_config_file, args.model_dir)
    for node, key in ((cfg, "OUTPUT_DIR"), (cfg, "RESUME"), (cfg.MODEL, "INIT_WEIGHTS")):
        node[key] = os.path.expanduser(node[key])
    cfg.freeze()
    return cfg


def load_plugin(path: str) -> ModuleType:
    """Import a Python file that registers trainers or data sets; its ``extend_cfg(cfg)``, if any, adds config nodes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be imported.
    """
    check_file(path, "plugin")
    name = f"plugin:{os.path.abspath(path)}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"the plugin {path} is not a Python file; its name should end with .py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except Exception as error:
            del sys.modules[name]
            raise ValueError(f"the plugin {path} cannot be imported: {type(error).__name__}: {error}") from error
    return sys.modules[name]


def use_device(name: str) -> bool:
    """Select a torch device and return whether it is a GPU; raise ValueError if it does not exist."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    known = ["cpu", *(["cuda"] if gpus else []), *gpus]
    if name not in known:
        raise ValueError(f"there is no device {name!r}; allowed for --device here: {', '.join(known)}")
    if name in gpus:
        torch.cuda.set_device(name)
    return name != "cpu"


def check_file(path: str, kind: str) -> None:
    """Raise FileNotFoundError, with a similar file name in the folder, unless ``path`` is a file."""
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        files = os.listdir(folder) if os.path.isdir(folder) else []
        raise FileNotFoundError(f"no such {kind} file: {path}{did_you_mean(os.path.basename(path), files)}")


def check_names(cfg: CfgNode) -> None:
    """Raise ValueError, before anything is loaded or written, unless the config names a known method and data set."""
    wanted = {"TRAINER": ("--trainer", TRAINER_REGISTRY), "DATASET": ("--dataset-config-file", DATASET_REGISTRY)}
    for node, (flag, registry) in wanted.items():
        name, known = cfg[node].NAME, registry.registered_names()
        if not name:
            allowed = f"{', '.join(known)} (--help shows all flags)"
            raise ValueError(f"{node}.NAME is not set: give {flag}; allowed: {allowed}")
        try:
            check_choice(f"{node}.NAME", name, known)
        except ValueError as error:
            raise ValueError(f"{error} (names from a file of yours: --plugin FILE)") from None


def run(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Train or evaluate as the command line asks; ``words`` are for the log."""
    if (args.model_dir or args.load_epoch is not None) and not args.eval_only:
        raise ValueError("--model-dir and --load-epoch go with --eval-only (to continue a run: --resume FOLDER)")
    cfg = setup_cfg(args)
    check_names(cfg)
    check_values(cfg)
    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    log = setup_logger(cfg.OUTPUT_DIR, wait=True)
    with log or nullcontext():
        logger.info(f"Arguments: {' '.join(words)}")
        logger.info(f"Config:\n{cfg}")
        logger.info(f"Environment:\n{collect_env_info()}\n")
        if torch.cuda.is_available() and cfg.USE_CUDA:
            torch.backends.cudnn.benchmark = True
        trainer = build_trainer(cfg)
        if args.eval_only and not args.model_dir and trainer.get_model_names():
            raise ValueError(f"--eval-only needs --model-dir RUN: {cfg.TRAINER.NAME} learns, so there is a run to load")
        lock_folder(cfg.OUTPUT_DIR)  # makes the output folder: what can be checked has been checked
        if log is not None:
            log.open()
        logger.info(f"{summary(trainer)}\n")
        if args.eval_only:
            trainer.load_model(args.model_dir, epoch=args.load_epoch)
            trainer.test()
        elif not args.no_train:
            warn_of_few_images(trainer)
            try:
                trainer.train()
            except KeyboardInterrupt as stop:
                done = finished_epochs(Path(cfg.OUTPUT_DIR))
                resumes = f"the same command resumes after epoch {done} of {cfg.OPTIM.MAX_EPOCH}"
                starts = "no epoch was finished: the same command starts from the beginning"
                stop.args = (resumes if done else starts,)
                raise


@command("train.py")
def main(words: Sequence[str]) -> None:
    """Run the command line; a mistake is one line."""
    run(parse_args(words), words)


if __name__ == "__main__":
    sys.exit(main())
