"""python -m datasets check|layout|stats NAME [--root ROOT]: look at data sets before they are trained on."""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections.abc import Sequence
from typing import Any

from dassl.config import get_cfg_default

from . import CATALOG, MINI_DATASETS, OWN_DATASETS
from .check import check
from .files import did_you_mean
from .keys import KEYS
from .registry import DescribedDataset, ListedDataset, reduce
from .report import layout_text, report_text, stats_text, summary_text

KNOWN: dict[str, type[ListedDataset]] = {**CATALOG, **MINI_DATASETS, **OWN_DATASETS}


def find(name: str) -> list[type[ListedDataset]]:
    """Return the data sets of a name: a registry name, a folder's or a YAML file's; "all" is CoOp's fifteen.

    Raises:
        ValueError: if there is none.
    """
    if name == "all":
        return list(CATALOG.values())
    known = {}
    for made in KNOWN.values():
        known[_plain(made.__name__)] = made
        if issubclass(made, DescribedDataset):
            known.setdefault(_plain(made.description.folder), made)
    if _plain(name) not in known:
        hint = did_you_mean(name, KNOWN) or "."
        raise ValueError(f"unknown data set {name!r}; allowed: all, {', '.join(KNOWN)}{hint}")
    return [known[_plain(name)]]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _config(args: argparse.Namespace, pairs: Sequence[str]) -> Any:
    cfg = get_cfg_default()
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    for key, default in KEYS.items():
        cfg.DATASET[key] = default
    cfg.DATASET.ROOT = args.root
    cfg.merge_from_list(list(pairs))
    return cfg


def _check(args: argparse.Namespace, made: list[type[ListedDataset]], cfg: Any) -> int:
    reports = []
    for one in made:
        reports.append(check(one, cfg, args.images, args.any_size))
        print(report_text(reports[-1]), end="\n\n", flush=True)
    if len(reports) > 1:
        print(summary_text(reports))
    return int(any(report.problems for report in reports))


def _layout(args: argparse.Namespace, made: list[type[ListedDataset]], cfg: Any) -> int:
    print("\n\n".join(layout_text(one) for one in made))
    return 0


def _stats(args: argparse.Namespace, made: list[type[ListedDataset]], cfg: Any) -> int:
    cfg.DATASET.NUM_SHOTS, cfg.SEED = args.shots, args.seed
    failed = 0
    for one in made:
        random.seed(args.seed)  # as a run does before it reads its data
        try:
            source = one.source(cfg, keep=False)
            split = reduce(source, cfg, keep=False)
        except (OSError, ValueError) as error:
            if len(made) == 1:
                raise
            print(f"{one.__name__}\nproblem: {error}", end="\n\n")
            failed = 1
            continue
        note = one.description.split_note(source.folder) if issubclass(one, DescribedDataset) else ""
        print(stats_text(one.__name__, split, len(made) == 1, note), end="\n\n", flush=True)
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    words = {
        "check": (_check, "compare a folder with what is expected; exit code 1 if there is a problem"),
        "layout": (_layout, "print the folder to prepare"),
        "stats": (_stats, "print how many images each split and class has; draws are not kept"),
    }
    for name, (run, help_) in words.items():
        command = commands.add_parser(name, help=help_, description=help_)
        command.set_defaults(run=run)
        command.add_argument("name", help=f"a data set, or all: {', '.join(KNOWN)}")
        command.add_argument("--root", default="", required=name != "layout", help="folder of data sets (or own data)")
        command.epilog = "KEY VALUE pairs of the config may follow, such as DATASET.CLASSNAMES names.txt"
    commands.choices["check"].add_argument(
        "--images", type=int, default=500, help="how many images to open, spread over the set; -1: all (default: 500)"
    )
    commands.choices["check"].add_argument(
        "--any-size",
        action="store_true",
        help="a part of the set will do: do not compare counts",
    )
    commands.choices["stats"].add_argument("--shots", type=int, default=-1, help="images a class, as DATASET.NUM_SHOTS")
    commands.choices["stats"].add_argument("--seed", type=int, default=1, help="seed of the draw (default: 1)")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    args, pairs = parser.parse_known_args(words)
    flag = next((word for word in pairs[0::2] if word.startswith("-")), None)
    if flag is not None:
        parser.error(f"unrecognized argument: {flag}")
    try:
        return args.run(args, find(args.name), _config(args, pairs))
    except (OSError, ValueError, KeyError, AssertionError) as error:
        print(f"python -m datasets: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    logging.getLogger("dassl").setLevel(logging.WARNING)  # tables only
    sys.exit(main())
