"""Run one method on the whole mini suite and print its averages in a table with the other methods.

    python -m experiments.row ALIGN              # three seeds
    python -m experiments.row ALIGN --quick      # one seed, without few-shot runs
    python -m experiments.row NearCoOp --plugin near_coop.py --config-file near_coop.yaml

Base-to-new on the source and the targets, cross-data-set and domain generalisation from the source, and few shots on
the source. Finished runs are not repeated. The other rows are those of results/*.csv.
"""

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import pandas as pd
from dassl.utils.command import Parser

from experiments.collect import RUN_COLUMNS, by_dataset, harmonic, read
from experiments.protocols import (
    PROTOCOLS,
    SEEDS,
    SHOTS,
    SUITES,
    TRAINING_FREE,
    RunDefaults,
    add_defaults,
    plan,
    presentation_order,
)
from experiments.rendering import markdown
from experiments.runs import PROJECT, RunSpec, command, run_all
from experiments.tables import KEYS, deviations

SUITE = SUITES["mini"]
FEWSHOT_SHOTS = (1, 4, 16)
COLUMNS = ["base", "new", "H", "xd", "dg", *(f"{k} shot{'s' * (k > 1)}" for k in FEWSHOT_SHOTS)]


def average(results: pd.DataFrame, datasets: Sequence[str], part: str, shots: int = SHOTS) -> pd.Series:
    """Return each method's accuracy, averaged over seeds, then over data sets; NaN if it lacks a data set."""
    return by_dataset(results, part, shots, datasets).mean(axis=1, skipna=False)


def rows(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per method: the number of seeds of its runs, the smallest one, and ``COLUMNS`` in percent.

    A training-free method has the same accuracy for any number of shots.

    Args:
        results: protocol -> one row per run, from ``experiments.collect.read``.
    """
    base, new = (average(results["base2new"], SUITE.datasets("base2new"), part) for part in ("base", "new"))
    columns = {"base": base, "new": new, "H": harmonic(base, new)}
    columns |= {name: average(results[name], SUITE.datasets(name), "target") for name in ("xd", "dg")}
    fewshot = results["fewshot"]
    constant = average(fewshot[fewshot["method"].isin(TRAINING_FREE)], [SUITE.source], "all", 0)
    for column, shots in zip(COLUMNS[5:], FEWSHOT_SHOTS):
        columns[column] = average(fewshot, [SUITE.source], "all", shots).combine_first(constant)
    table = pd.DataFrame(columns)
    counts = pd.concat([part.groupby(KEYS[:4])["seed"].nunique() for part in results.values()])
    table.insert(0, "seeds", counts.groupby("method").min())
    return table.loc[presentation_order(table.index)]


def render(results: Mapping[str, pd.DataFrame]) -> str:
    """Return ``rows(results)`` as Markdown, and below it how runs deviate from their published method."""
    return "\n\n".join([markdown(rows(results), "method"), *deviations(*results.values())])


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="row", doc=__doc__)
    add = parser.add_argument
    add("method", help="registry name")
    add("--quick", action="store_true", help="one seed, without few-shot runs")
    add_defaults(parser, root="data", output=Path("output/rows"))
    args = parser.parse_args(argv)
    defaults = RunDefaults.from_args(args)
    protocols = [name for name in PROTOCOLS if name != "fewshot" or not args.quick]
    seeds = SEEDS[:1] if args.quick else SEEDS
    runs: list[RunSpec] = []
    for name in protocols:
        datasets = [SUITE.source] if name == "fewshot" else ["mini"]
        runs += chain(*plan(name, [args.method], datasets, seeds, defaults, FEWSHOT_SHOTS))
    run_all(runs)
    print(render(gather(PROJECT / args.output, args.method)))


def gather(output: Path, method: str) -> dict[str, pd.DataFrame]:
    """Return, by protocol, the method's results below ``output`` and the other methods' from results/*.csv."""
    found = {}
    for name in PROTOCOLS:
        folder, file = output / name, PROJECT / "results" / f"{name}.csv"
        ours = [read(folder, name)[0].query("method == @method")] if folder.is_dir() else []
        others = [read(file, name)[0].query("method != @method")] if file.is_file() else []
        found[name] = pd.concat([*ours, *others]) if ours or others else pd.DataFrame(columns=RUN_COLUMNS)
    return found


if __name__ == "__main__":
    sys.exit(main())
