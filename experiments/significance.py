"""Bootstrap intervals over test images, and paired tests between methods.

    python -m experiments.significance output --table base2new
    python -m experiments.significance output results/xd.csv --table xd --reference CoOp --format csv

The tests read each run's ``predictions.csv``, or the column ``correct`` of the committed results. The value of an image
is the share of seeds that classify it correctly; averages over data sets give every set the same weight. Images of one
drawing in other colours count as separate images.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from dassl.utils.command import Parser
from scipy.stats import false_discovery_control
from tabulate import tabulate

from experiments.collect import harmonic, read
from experiments.protocols import PROTOCOLS, SHOTS, presentation_order
from experiments.report.reading import with_answers
from experiments.runs import command
from experiments.tables import KEYS, PARTS, TableBuilder
from prompting.ot.checks import check_choice

RESAMPLES = 2000
Groups = dict[tuple[str, str], np.ndarray]  # (data set, part) -> correctness (n images, methods), in [0, 1]


def correctness(results: pd.DataFrame, protocol: str, shots: int = SHOTS) -> tuple[Groups, list[str]]:
    """Return the share of seeds that classify each image correctly, and the methods in order of presentation.

    ``results`` has one row per run, from ``experiments.collect.read``. Rows of a CSV file without answers are left out,
    and counted on stderr.

    Raises:
        ValueError: a method lacks a data set, or was tested on other images than the others.
    """
    chosen = results[results["part"].isin(PARTS[protocol]) & results["shots"].isin([shots, 0])]
    chosen = with_answers(chosen)
    for folder in chosen[chosen["correct"].isna()]["folder"]:
        if folder.is_dir():
            raise FileNotFoundError(f"{folder} has no predictions.csv: repeat the run's command, which tests it again")
    if count := int(chosen["correct"].isna().sum()):
        print(f"{count} of {len(chosen)} runs have no answers (column correct) and are left out", file=sys.stderr)
    chosen = chosen.dropna(subset="correct")
    if chosen.empty:
        raise ValueError(f"no runs of {protocol} with {shots} shots and the answers to their images")
    methods, groups = presentation_order(set(chosen["method"])), {}
    for key, tests in chosen.groupby(["dataset", "part"]):
        if len({*zip(tests["images"], tests["correct"].str.len())}) > 1:
            raise ValueError(f"the runs on {', '.join(key)} were tested on different images")
        seeds = tests.groupby("method")["correct"]
        right = {method: np.mean([[*map(int, answers)] for answers in runs], axis=0) for method, runs in seeds}
        if absent := [method for method in methods if method not in right]:
            raise ValueError(f"{absent[0]} has no run on {', '.join(key)}; run it, or leave it out with --methods")
        groups[key] = np.stack([right[method] for method in methods], 1)
    return groups, methods


def columns_of(accuracy: dict[tuple[str, str], np.ndarray]) -> dict[str, np.ndarray]:
    """Return averages over data sets in percent, from accuracies by (data set, part); H is computed from them."""
    parts = list(dict.fromkeys(part for _, part in accuracy))
    mean = {part: 100 * np.mean([a for (_, p), a in accuracy.items() if p == part], axis=0) for part in parts}
    if set(parts) != {"base", "new"}:
        return {"accuracy": mean[parts[0]]}
    return mean | {"H": harmonic(mean["base"], mean["new"])}


def bootstrap(groups: Groups, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
    """Return the averages (resamples, methods) for bootstrap samples of the test images of each data set.

    All methods share the samples, so that differences between methods are paired.
    """
    rng, accuracy = np.random.default_rng(0), {}
    for key, right in groups.items():
        count = len(right)
        accuracy[key] = rng.multinomial(count, np.full(count, 1 / count), size=resamples) @ right / count
    return columns_of(accuracy)


def swap_test(groups: Groups, one: int, other: int, resamples: int = RESAMPLES) -> dict[str, float]:
    """Return two-sided p-values of the differences between two methods, by a paired permutation test.

    Under the null hypothesis the two methods' answers to an image are exchangeable: each permutation swaps them with
    probability 1/2 per image (Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005).
    """
    rng, first, second = np.random.default_rng(0), {}, {}
    for key, right in groups.items():
        swap = rng.integers(0, 2, (resamples, len(right)))
        swap[0] = 0  # the observed answers
        moved = swap @ (right[:, one] - right[:, other]) / len(right)
        first[key], second[key] = right[:, one].mean() - moved, right[:, other].mean() + moved
    a, b = columns_of(first), columns_of(second)
    return {name: float(np.mean(np.abs(a[name] - b[name]) >= abs(a[name][0] - b[name][0]) - 1e-9)) for name in a}


def compare(groups: Groups, methods: Sequence[str], reference: str) -> pd.DataFrame:
    """Return one row per column and method: figure, 95 % interval, difference to the reference with interval, p-values.

    ``p`` is that of the paired test, ``q`` is adjusted for all methods of a column (Benjamini and Hochberg, 1995).
    """
    check_choice("--reference", reference, methods)
    tails, base = [2.5, 97.5], methods.index(reference)
    figures, drawn = columns_of({key: right.mean(0) for key, right in groups.items()}), bootstrap(groups)
    tests = {m: swap_test(groups, i, base) for i, m in enumerate(methods) if i != base}
    rows = []
    for column, values in figures.items():
        for i, method in enumerate(methods):
            low, high = np.percentile(drawn[column][:, i], tails)
            row = {"column": column, "method": method, "figure": values[i], "low": low, "high": high}
            if method in tests:
                low, high = np.percentile(drawn[column][:, i] - drawn[column][:, base], tails)
                difference = values[i] - values[base]
                row |= {"difference": difference, "from": low, "to": high, "p": tests[method][column]}
            rows.append(row)
    table = pd.DataFrame(rows)
    if tests:
        table["q"] = table.dropna(subset="p").groupby("column")["p"].transform(false_discovery_control)
    return table


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="significance", doc=__doc__)
    add = parser.add_argument
    add("output", type=Path, nargs="+", help="folders of runs, and CSV files of results")
    add("--table", choices=PROTOCOLS, required=True, help="protocol to report")
    add("--reference", default="ALIGN", help="method that the others are compared with")
    add("--methods", nargs="+", default=["all"], help="methods to report (default: all found)")
    add("--datasets", nargs="+", default=[], help="stems of YAML files (default: all that were found)")
    add("--shots", type=int, default=SHOTS, help=f"training images per class (default: {SHOTS})")
    add("--format", choices=("simple", "github", "csv"), default="simple", help="form of the table")
    add("--figure", type=Path, help="also draw the differences with their intervals to this file")
    args = parser.parse_args(argv)
    found = [TableBuilder(args.table, read(one, args.table)[0]).results for one in args.output]
    results = pd.concat(found, ignore_index=True)
    results = results[~results.duplicated(KEYS)]  # of a run that several have, the first counts
    results = results[results["method"].isin(args.methods)] if args.methods != ["all"] else results
    results = results[results["dataset"].isin(args.datasets)] if args.datasets else results
    groups, methods = correctness(results, args.table, args.shots)
    table = compare(groups, methods, args.reference)
    if args.figure:
        if len(methods) < 2:
            raise ValueError(f"{methods[0]} is the only method found: there is no difference to draw")
        from experiments.pictures import draw_intervals

        draw_intervals(table, args.figure)
    if args.format == "csv":
        print(table.round(4).to_csv(index=False), end="")
        return
    images = sum(len(right) for right in groups.values())
    print(f"{images} test images, {len(groups)} tests; 95 % intervals; differences to {args.reference}\n")
    print(tabulate(table.fillna({"q": np.nan}), "keys", args.format, floatfmt=".3f", showindex=False, missingval="-"))


if __name__ == "__main__":
    sys.exit(main())
