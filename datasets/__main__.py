"""Inspect data sets before training on them. KEY VALUE pairs of the config may follow a command.

python -m datasets layout dtd
python -m datasets check dtd --root data
python -m datasets check Folder --root photos DATASET.CLASSNAMES names.txt
python -m datasets stats mini_source --root data --shots 4
"""

import argparse
import inspect
import logging
import random
import sys
from collections import Counter
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from dassl.config import get_cfg_default
from dassl.utils.command import Parser, command
from dassl.utils.registry import did_you_mean
from tabulate import tabulate

from . import CATALOG, CUSTOM_DATASETS, MINI_DATASETS, extend_cfg
from .check import Report, check
from .registry import DescribedDataset, ListedDataset, select
from .splits import Split

KNOWN: dict[str, type[ListedDataset]] = {**CATALOG, **MINI_DATASETS, **CUSTOM_DATASETS}


def find(name: str) -> list[type[ListedDataset]]:
    """Return the data sets of a registry name, folder or YAML name ("all": CoOp's fifteen), or raise ValueError."""
    if name == "all":
        return list(CATALOG.values())
    described = [made for made in KNOWN.values() if issubclass(made, DescribedDataset)]
    known = {_plain(made.description.folder): made for made in described}
    known |= {_plain(key): made for key, made in KNOWN.items()}
    if _plain(name) not in known:
        raise ValueError(f"unknown data set {name!r}; allowed: all, {', '.join(KNOWN)}{did_you_mean(name, KNOWN)}")
    return [known[_plain(name)]]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _check(args: argparse.Namespace, made: list[type[ListedDataset]], cfg: Any) -> int:
    reports = []
    for one in made:
        reports.append(check(one, cfg, args.images, args.any_size))
        print(report_text(reports[-1]), end="\n\n", flush=True)
    if len(reports) > 1:
        rows = [(r.name, len(r.problems), shorten(r.problems[0], width=90) if r.problems else "") for r in reports]
        print(tabulate(rows, ["data set", "problems", "first problem"]))
    return int(any(report.problems for report in reports))


def report_text(report: Report) -> str:
    """Return a report as text: table, notes, problems."""
    lines = [f"{report.name}  {report.folder}"]
    if report.rows:
        lines.append(tabulate(report.rows, ["", "expected", "found"], disable_numparse=True, stralign="right"))
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join(lines if report.problems else [*lines, "no problem found"])


def _layout(args: argparse.Namespace, made: list[type[ListedDataset]], cfg: Any) -> int:
    print("\n\n".join(map(layout_text, made)))
    return 0


def layout_text(made: type[ListedDataset]) -> str:
    """Return the folder tree to prepare for a data set."""
    if not issubclass(made, DescribedDataset):
        return f"{made.__name__}: {inspect.getdoc(made)}"
    about = made.description
    if not about.source:
        entries = [(f"{about.images}/*/*.png", "drawn at first use"), (about.split, "drawn with them")]
    else:
        entries = list(about.pictures)
        if about.split:
            entries.append((about.split, "CoOp's split; if missing, another one is drawn, unlike the published one"))
        entries += [(path, "not needed with the split file" if about.split else "needed") for path in about.files]
    tree = tabulate(entries, tablefmt="plain")
    lines = [about.name, f"ROOT/{about.folder}/", *(f"  {line}" for line in tree.splitlines())]
    if about.counts:
        n = about.counts
        lines.append(f"{n.classes:,} classes; train {n.train:,}, val {n.val:,}, test {n.test:,} images")
        lines.append(f"from {about.source}")
    return "\n".join(lines)


def _stats(args: argparse.Namespace, made: list[type[ListedDataset]], cfg: Any) -> int:
    failed = 0
    for one in made:
        random.seed(cfg.SEED)  # as a run does before it reads its data
        try:
            source = one.source(cfg, keep=False)
            split = select(source, cfg, keep=False)
        except (OSError, ValueError) as error:
            if len(made) == 1:
                raise
            print(f"{one.__name__}\nproblem: {error}", end="\n\n")
            failed = 1
            continue
        note = one.description.split_note(source.folder) if issubclass(one, DescribedDataset) else ""
        print(stats_text(one.__name__, split, len(made) == 1, note), end="\n\n", flush=True)
    return failed


def stats_text(name: str, split: Split, classes: bool = True, note: str = "") -> str:
    """Return tables of the number of images per part and, with ``classes``, per class."""
    counts = [Counter(row.label for row in part) for part in split]
    rows = []
    for part, of in zip(Split._fields, counts):
        if of:
            total = sum(of.values())
            rows.append((part, f"{total:,}", len(of), min(of.values()), f"{total / len(of):.1f}", max(of.values())))
    text = f"{name}\n" + tabulate(rows, ["split", "images", "classes", "fewest a class", "mean", "most"])
    text += f"\nnote: {note}" if note else ""
    if classes:
        names = {row.label: row.classname for part in reversed(split) for row in part}
        lines = [(label, names[label], *(of[label] for of in counts)) for label in sorted(names)]
        text += "\n\n" + tabulate(lines, ["label", "class", *Split._fields])
    return text


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m datasets", doc=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for run, help_ in (
        (_check, "compare a folder with the description of its data set; exit code 1 if there is a problem"),
        (_layout, "print the folder to prepare"),
        (_stats, "print the number of images per split and class; draws are not written"),
    ):
        form = {"epilog": parser.epilog, "formatter_class": parser.formatter_class}  # the same examples
        command = commands.add_parser(run.__name__[1:], help=help_, description=help_, **form)
        command.set_defaults(run=run)
        command.add_argument("name", help=f"a data set, or all: {', '.join(KNOWN)}")
        command.add_argument("--root", default="", required=run is not _layout, help="folder of the data sets")
    add = commands.choices["check"].add_argument
    most = "largest number of images to open, evenly spread; -1: all (default: 500)"
    add("--most", "--images", dest="images", type=int, default=500, help=most)
    add("--any-size", action="store_true", help="accept a part of the data set: do not compare counts")
    add = commands.choices["stats"].add_argument
    add("--shots", type=int, default=-1, help="images per class, as DATASET.NUM_SHOTS")
    add("--seed", type=int, default=1, help="seed of the draw (default: 1)")
    return parser


@command("python -m datasets")
def main(words: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = _parser()
    args, pairs = parser.parse_known_args(words)
    flag = next((word for word in pairs[0::2] if word.startswith("-")), None)
    if flag is not None:
        parser.error(f"unrecognized argument: {flag}")
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.DATASET.ROOT = args.root
    if args.run is _stats:
        cfg.DATASET.NUM_SHOTS, cfg.SEED = args.shots, args.seed
    cfg.merge_from_list(list(pairs))
    return args.run(args, find(args.name), cfg)


if __name__ == "__main__":
    logging.getLogger("dassl").setLevel(logging.WARNING)  # print the tables only
    sys.exit(main())
