"""Check data sets and weights against published figures: list what exists, and compare CLIP's accuracies.

    python -m experiments.verify DATA
    python -m experiments.verify DATA --tuned CoOp --datasets dtd eurosat --backbones ViT-B/16

Zero-shot CLIP runs on every data set that exists, with every existing file of OpenAI's weights that has published
figures. ``--tuned`` adds one cell of base-to-new with one seed. The exit code is 1 if a figure is missed.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dassl.utils.command import Parser
from tabulate import tabulate
from tqdm import tqdm

from experiments.collect import harmonic, read_folder, stems
from experiments.protocols import RunDefaults, plan
from experiments.runs import command, execute, run_all
from experiments.tables import AVERAGE, PUBLISHED
from prompting.clip.loading import OPENAI_NAMES, openai_files
from prompting.ot.checks import check_choice

CLIP = "CLIP"
ZERO_SHOT = 0.5  # points that zero-shot figures may differ: precision, image libraries, rounding
TUNED = {"base": 2.0, "new": 4.0, "H": 3.0}  # one seed against a mean of three
# Small data sets first, ImageNet and its variants last: --tuned trains on the first one that exists.
ORDER = "dtd caltech101 oxford_flowers ucf101 oxford_pets fgvc_aircraft eurosat stanford_cars food101 sun397".split()


class Cell(NamedTuple):
    """A published figure to meet: an accuracy in percent on ``classes`` (all, base, new or H) of a data set."""

    method: str
    dataset: str
    backbone: str
    classes: str
    expected: float
    tolerance: float
    source: str


def cells_of(figures: Sequence[dict[str, Any]], method: str, table: str = "") -> Iterator[Cell]:
    """Yield the cells of a method on single data sets; ``table`` "" takes all protocols, each figure once."""
    seen = set()
    for f in figures:
        if f["method"] != method or f["dataset"] == AVERAGE or "variant" in f or table not in ("", f["table"]):
            continue
        for key, expected in f["values"].items():
            classes = "all" if key == "accuracy" else key
            place = f["dataset"], f["backbone"], classes
            if place in seen or (method == CLIP and key == "H"):
                continue
            seen.add(place)
            tolerance = ZERO_SHOT if method == CLIP else TUNED[classes]
            yield Cell(method, *place, expected, tolerance, f["source"])


def found_datasets(root: Path) -> dict[str, str]:
    """Return a note on each of the fifteen data sets by the stem of its YAML file: "" if its folder is missing."""
    from datasets import CATALOG

    found = {}
    for stem, name in sorted((stems()[name], name) for name in CATALOG):
        about = CATALOG[name].description
        folder = root / about.folder
        found[stem] = "; ".join(filter(None, ["found", about.split_note(folder)])) if folder.is_dir() else ""
    return found


def found_weights(name: str) -> str:
    """Return the file of OpenAI's weights, "" if it is missing; "given" for other backbones."""
    if name not in OPENAI_NAMES:
        return "given"
    return next((str(path) for path in openai_files(name) if path.is_file()), "")


def zero_shot(cell: Cell, args: argparse.Namespace) -> float | str:
    """Return the accuracy of zero-shot CLIP, or the reason of a failure."""
    name = f"{cell.dataset}-{cell.classes}-{cell.backbone}".replace("/", "-")
    folder = args.output / "zero_shot" / name.replace(" ", "_")
    words = ["--root", str(args.data), "--trainer", "ZeroshotCLIP", "--eval-only", "--seed", "1"]
    words += ["--dataset-config-file", f"configs/datasets/{cell.dataset}.yaml", "--output-dir", str(folder)]
    words += ["--config-file", "configs/trainers/ZeroshotCLIP/vit_b16.yaml", "DATASET.NUM_SHOTS", "0"]
    words += ["MODEL.BACKBONE.NAME", cell.backbone, *args.set, "DATASET.SUBSAMPLE_CLASSES", cell.classes]
    try:
        execute(words, folder, tqdm(disable=True))
    except RuntimeError as error:
        return str(error)
    return read_folder(folder).accuracy


def tuned(cells: Sequence[Cell], args: argparse.Namespace) -> list[float | str]:
    """Train and test base-to-new; return the accuracies of ``cells``, or the reason of a failure for each."""
    method, dataset, backbone = args.tuned, cells[0].dataset, cells[0].backbone
    options = ("MODEL.BACKBONE.NAME", backbone, *args.set)
    defaults = RunDefaults(str(args.data), args.output / "tuned", options=options)
    try:
        (job,) = plan("base2new", [method], [dataset], [1], defaults)
        run_all(job, quiet=True)
    except (RuntimeError, ValueError) as error:
        return [str(error)] * len(cells)
    by_part = {run.classes: read_folder(run.folder).accuracy for run in job}
    by_part["H"] = harmonic(by_part["base"], by_part["new"])
    return [by_part[cell.classes] for cell in cells]


def judge(cell: Cell, got: float | str) -> list[str]:
    """Return a row of the table."""
    head = [cell.method, cell.dataset, cell.backbone, cell.classes, f"{cell.expected:.2f}"]
    if isinstance(got, str):
        return [*head, "-", "-", f"{cell.tolerance:.1f}", "FAIL", got]
    verdict = "pass" if abs(round(got - cell.expected, 2)) <= cell.tolerance else "FAIL"
    return [*head, f"{got:.2f}", f"{got - cell.expected:+.2f}", f"{cell.tolerance:.1f}", verdict, cell.source]


def choose_tuned(args: argparse.Namespace, figures: list[dict[str, Any]], existing: Sequence[str]) -> list[Cell]:
    """Return the cells of the first training of ``--tuned`` in ``figures`` whose data set and weights exist."""
    names = PUBLISHED["names"]
    name = names.get(args.tuned, args.tuned)
    known = {f["method"] for f in figures if f["table"] == "base2new" and f["dataset"] != AVERAGE} - {CLIP}
    allowed = [trainer for trainer, method in names.items() if method in known]
    check_choice("--tuned (methods with published figures by data set)", args.tuned, [*allowed, *known & {name}])
    cells = list(cells_of(figures, name, "base2new"))
    usable = [cell for cell in cells if cell.dataset in existing and found_weights(cell.backbone)]
    if not usable:
        raise ValueError(f"no published figure of {args.tuned} has both its data set and its weights here")
    return [cell for cell in usable if (cell.dataset, cell.backbone) == (usable[0].dataset, usable[0].backbone)]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """List the data sets and weights, run, and print the table."""
    parser = Parser(prog="verify", doc=__doc__)
    add = parser.add_argument
    add("data", type=Path, help="folder of the data sets, as --root of train.py")
    add("--tuned", metavar="METHOD", help="also train this method on one data set and test both halves, with one seed")
    add("--datasets", nargs="+", default=[], help="only these (stems of configs/datasets)")
    add("--backbones", nargs="+", default=[], help="only these")
    output = Path(os.environ.get("OUTPUT", "output")) / "verify"
    add("--output-dir", "--output", dest="output", type=Path, default=output, help="folder of the results")
    add("--figures", type=Path, help="JSON file of figures instead of experiments/published.json")
    add("--set", nargs="+", default=[], metavar="KEY VALUE", help="config words for all runs")
    args = parser.parse_args(argv)
    args.data, args.output = args.data.absolute(), args.output.absolute()

    figures = (PUBLISHED if args.figures is None else json.loads(args.figures.read_text(encoding="utf-8")))["figures"]
    figures = sorted(figures, key=lambda f: ORDER.index(f["dataset"]) if f["dataset"] in ORDER else len(ORDER))
    datasets = found_datasets(args.data)
    for name in args.datasets:
        check_choice("data set", name, list(datasets))
    rows = [(name, note or "missing") for name, note in datasets.items()]
    print(f"{tabulate(rows, ['data set', str(args.data)])}\n")
    print(tabulate([(n, found_weights(n) or "missing") for n in OPENAI_NAMES], ["weights", "file"]), "\n", flush=True)

    existing = [name for name, note in datasets.items() if note and name in (args.datasets or datasets)]
    known = [cell for cell in cells_of(figures, CLIP) if cell.backbone in (args.backbones or [cell.backbone])]
    cells = [cell for cell in known if cell.dataset in existing and found_weights(cell.backbone)]
    chosen = choose_tuned(args, figures, existing) if args.tuned else []
    if not cells and not chosen:
        raise ValueError(f"nothing to verify: no data set in {args.data} with weights that have published figures")
    table = []
    for i, cell in enumerate(cells, 1):
        print(f"[{i}/{len(cells)}] zero-shot {cell.backbone} on {cell.dataset}, {cell.classes}", file=sys.stderr)
        table.append(judge(cell, zero_shot(cell, args)))
    if chosen:
        print(f"{args.tuned} on {chosen[0].dataset}: training and two tests", file=sys.stderr)
        table += [judge(cell, got) for cell, got in zip(chosen, tuned(chosen, args))]
    heads = ["method", "data set", "weights", "classes", "expected", "got", "difference", "within", "", "source"]
    print(tabulate(table, heads, disable_numparse=True))
    failed = sorted(row[1] for row in table if row[8] == "FAIL")
    print(f"\n{len(table) - len(failed)} of {len(table)} figures are met")
    if failed:
        print(f"look first at: python -m datasets check {failed[0]} --root {args.data}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
