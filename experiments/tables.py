"""The paper's tables from the results of runs, next to the published figures.

    python -m experiments.tables output --table base2new --format markdown
    python -m experiments.tables output --table fewshot --plot curves.png

OUTPUT is a folder of this project's runs (``results.json``), a folder of logs of CoOp, MaPLe, PLOT and others, or a CSV
file of results/. Figures are means over seeds, with the (population) standard deviation.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from dassl.utils.command import Parser

from experiments.collect import harmonic, read
from experiments.protocols import PROTOCOLS, SHOTS, SUITES, TRAINING_FREE, expand, presentation_order
from experiments.rendering import FORMATS, render
from experiments.runs import command
from prompting.ot.checks import check_choice

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
FIGURES = {
    (f["table"], f["method"], f["dataset"], f["shots"], f["backbone"], key): (value, f["source"])
    for f in PUBLISHED["figures"]
    if "variant" not in f
    for key, value in f["values"].items()
}
CELLS = ["table", "method", "column", "mean", "std", "seeds", "published", "difference", "source"]
PARTS = {"base2new": ("base", "new"), "xd": ("target",), "dg": ("target",), "fewshot": ("all",)}  # that are tested
KEYS = ["method", "dataset", "part", "shots", "seed"]  # columns that identify a run
AVERAGE = "average"


class TableBuilder:
    """The tables of one protocol, as ``cells``: one row per cell, with the columns ``CELLS``.

    There is one table per data set and one of their average (base2new), one (xd, dg), or one per number of shots.
    A cell without runs has no mean. ``missing`` lists the missing seeds, one line per method, table and set of seeds.

    Args:
        protocol: one of ``PROTOCOLS``.
        results: one row per run, with the fields of ``RunResult``.
        datasets: data sets to report; empty for a suite if its source or two of its sets were found, else those found.
        methods, shots, seeds: to report, found or not; empty for those found. Zero shots are reported if found.

    Raises:
        ValueError: two runs have the same method, data set, part, shots and seed, or a method is unknown.
    """

    def __init__(
        self,
        protocol: str,
        results: pd.DataFrame,
        datasets: Sequence[str] = (),
        methods: Sequence[str] = (),
        shots: Sequence[int] = (),
        seeds: Sequence[int] = (),
    ) -> None:
        for method in methods:
            check_choice("method", method, presentation_order({*PUBLISHED["names"], *results["method"]}))
        parts, training = PARTS[protocol], ("source", "all") if protocol in ("xd", "dg") else ()
        results = results[results["part"].isin([*parts, *training])]
        results = results[results["method"].isin(methods or results["method"])]
        results = results[results["seed"].isin(seeds or results["seed"])]
        for key, (one, other, *_) in results[results.duplicated(KEYS, keep=False)].groupby(KEYS)["folder"]:
            run = "{} on {} ({}, {} shots, seed {})".format(*key)
            remedy = "choose with --configs, or name a smaller folder"
            raise ValueError(f"there are two runs of {run}: {one} and {other}; {remedy}")
        self.protocol, self.results = protocol, results
        self.datasets = list(datasets) or self._expected(set(results[results["part"].isin(parts)]["dataset"]))
        suite = next((s for s in SUITES.values() if set(self.datasets) & set(s.datasets(protocol))), None)
        self.source = suite.source if suite and training else ""
        reported = results[results["dataset"].isin([*self.datasets, self.source])]
        self.methods = presentation_order(methods or set(reported["method"]))
        found = set(results[results["part"] == "all"]["shots"])
        self.shots = sorted({*shots, *((found & {0}) if shots else found)})
        self.cells = self._build()
        self.missing = self._missing(seeds or sorted(set(results["seed"])))

    def _expected(self, found: set[str]) -> list[str]:
        trained = set(self.results[self.results["part"] == "source"]["dataset"])
        for suite in SUITES.values():
            if suite.source in trained or len(found & set(suite.datasets(self.protocol))) > 1:
                return suite.datasets(self.protocol)
        return sorted(found)

    def _build(self) -> pd.DataFrame:
        if self.results.empty:
            return pd.DataFrame(columns=CELLS)
        if self.protocol == "base2new":
            wide = self._base2new()
        elif self.protocol == "fewshot":
            wide = {_shots(k): self._pivot("all", k) for k in self.shots}
        else:
            title = {"xd": "cross-data-set", "dg": "domain generalisation"}[self.protocol]
            wide = {f"{title}, trained on {self.source}": self._transfer()}
        cells = [
            self._cell(title, method, column, table[column])
            for title, table in wide.items()
            for method in self.methods
            if self.protocol != "fewshot" or (method in TRAINING_FREE) == (title == _shots(0))
            for column in table
        ]
        return pd.DataFrame(cells, columns=CELLS)

    def _pivot(self, part: str, shots: int = SHOTS) -> pd.DataFrame:
        """Return accuracies by (method, seed) and data set, with the average for seeds with all data sets."""
        chosen = self.results[(self.results["part"] == part) & (self.results["shots"] == shots)]
        wide = chosen.pivot(index=["method", "seed"], columns="dataset", values="accuracy")
        wide = wide.reindex(columns=self.datasets)
        return wide.assign(**{AVERAGE: wide.mean(axis=1, skipna=False)}) if len(self.datasets) > 1 else wide

    def _base2new(self) -> dict[str, pd.DataFrame]:
        base, new = self._pivot("base"), self._pivot("new")
        tables = {}
        for title in sorted(base.columns, key=lambda name: name != AVERAGE):  # the average first
            both = pd.DataFrame({"base": base[title], "new": new[title]}, dtype=float)
            if title == AVERAGE:  # only of both halves
                both = both[both.groupby(level="method").transform("count").min(axis=1) > 0]
            both["H"] = harmonic(both["base"], both["new"])
            tables[title] = both
        return tables

    def _transfer(self) -> pd.DataFrame:
        runs = self.results[(self.results["dataset"] == self.source) & (self.results["shots"] == SHOTS)]
        best = runs.groupby("method")["part"].max()  # "source" if any, else "all"
        runs = runs[runs["part"] == runs["method"].map(best)]
        first = runs.set_index(["method", "seed"])["accuracy"].rename(self.source)
        return pd.concat([first, self._pivot("target")], axis=1)

    def _cell(self, title: str, method: str, column: str, accuracies: pd.Series) -> dict:
        """Return a cell from accuracies by (method, seed), with the published figure of the same backbone."""
        values = accuracies[accuracies.index.get_level_values("method") == method].dropna().sort_index()
        cell = {"table": title, "method": method, "column": column, "mean": values.mean()}
        cell["std"] = values.std(ddof=0) if len(values) > 1 else None
        cell["seeds"] = " ".join(map(str, values.index.get_level_values("seed")))
        backbones = self.results[self.results["method"] == method]["backbone"].unique()
        dataset, key = (title, column) if self.protocol == "base2new" else (column, "accuracy")
        shots = int(title.split()[0]) if self.protocol == "fewshot" else SHOTS
        known = (self.protocol, PUBLISHED["names"].get(method, method), dataset, shots, *backbones, key)
        whole = dataset != AVERAGE or self.datasets == SUITES["all"].datasets(self.protocol)
        if known in FIGURES and len(values) and whole:
            figure, source = FIGURES[known]
            cell |= {"published": figure, "difference": cell["mean"] - figure, "source": source}
        return cell

    def _missing(self, seeds: Sequence[int]) -> list[str]:
        """Return the missing seeds of cells with runs of their own: averages and H follow from the others."""
        cells = self.cells[~self.cells[["table", "column"]].isin([AVERAGE, "H"]).any(axis=1)]
        absent = [", ".join(str(seed) for seed in seeds if str(seed) not in found.split()) for found in cells["seeds"]]
        groups = cells.assign(absent=absent).query("absent != ''").groupby(["method", "table", "absent"], sort=False)
        return [f"{one}, {title}, {', '.join(names)}: seed {seed}" for (one, title, seed), names in groups["column"]]

    def report(self, form: str, notes: Sequence[str] = ()) -> str:
        """Return all tables as text, and below them marks, sources, missing runs and folders without a result."""
        cells = self.cells
        if self.protocol == "fewshot" and len(self.datasets) == 1:  # numbers of shots side by side
            every = pd.MultiIndex.from_product([self.methods, cells["table"].unique()], names=["method", "table"])
            cells = cells.drop(columns="column").set_index(["method", "table"]).reindex(every).reset_index()
            cells = cells.rename(columns={"table": "column"}).assign(table=self.datasets[0])
        published = any(name in SUITES["all"].datasets(self.protocol) for name in self.datasets)
        texts = [render(table, form, published) for _, table in cells.groupby("table", sort=False)]
        marks = {"terminal": " * best, + second best.", "markdown": " Bold: best; underlined: second best."}
        lines = [f"Accuracy in percent; mean ± standard deviation over seeds.{marks.get(form, '')}"]
        sources = sorted(set(cells["source"].dropna()))
        lines += [f"Published: {'; '.join(sources)}."] if sources else []
        lines += deviations(self.results)
        lines += [*(f"Missing: {line}" for line in self.missing), *(f"Nothing found in {note}" for note in notes)]
        start = {"latex": "% ", "markdown": "- "}.get(form, "")
        return "\n\n".join([*texts, "\n".join(start + line for line in lines)])


def deviations(*results: pd.DataFrame) -> list[str]:
    """Return a sentence for each method and note of runs that deviate from the published method, with the data sets."""
    datasets: dict[tuple[str, str], set[str]] = {}
    for table in results:
        for one in table.dropna(subset="note").itertuples() if "note" in table else ():
            datasets.setdefault((one.method, one.note), set()).add(one.dataset)
    return [f"{method} on {', '.join(sorted(names))}: {note}." for (method, note), names in sorted(datasets.items())]


def nothing_found(protocol: str, output: Path, results: pd.DataFrame, notes: Sequence[str] = ()) -> ValueError:
    """Return an error that says which results there are instead."""
    others = sorted({f"{one.dataset} ({one.part}, {_shots(one.shots)})" for one in results.itertuples()})
    found = f"; found: {', '.join(others)}" if others else ""
    return ValueError("\n  ".join([f"no result for {protocol} in {output}{found}", *notes]))


def _shots(number: int) -> str:
    return f"{number} shot{'' if number == 1 else 's'}"


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="tables", doc=__doc__)
    add = parser.add_argument
    add("output", type=Path, help="folder of runs or of other projects' logs, or a CSV file of results/")
    add("--table", choices=PROTOCOLS, required=True, help="protocol to report")
    add("--format", choices=FORMATS, default="terminal", help="form of the table (default: terminal)")
    add("--datasets", nargs="+", default=[], help="names, all or mini (default: what was found)")
    add("--methods", nargs="+", default=["all"], help="methods to report (default: all that were found)")
    add("--seeds", type=int, nargs="+", default=[], help="seeds to report (default: those found)")
    shots = "training images per class of fewshot, to report (default: those found)"
    add("--shots", type=int, nargs="+", default=[], help=shots)
    add("--configs", nargs="+", help="only runs with these YAML files (stems) or CoOp's folders of settings")
    add("--plot", type=Path, help="draw the few-shot curves into this file")
    args = parser.parse_args(argv)
    if args.plot and args.table != "fewshot":
        raise ValueError(f"--plot draws few-shot curves; the table asked for is {args.table}")
    results, notes = read(args.output, args.table)
    if args.configs:
        results = results[[bool({name, *name.split("/")} & set(args.configs)) for name in results["config"]]]
    datasets = expand(args.table, args.datasets) if args.datasets else []
    methods = [method for method in args.methods if method != "all"]
    builder = TableBuilder(args.table, results, datasets, methods, args.shots, args.seeds)
    if builder.cells["mean"].isna().all():
        raise nothing_found(args.table, args.output, results, notes)
    if args.plot:
        from experiments.pictures import draw_curves

        draw_curves(builder.cells, args.plot)
    if args.format == "csv":
        print(builder.cells.to_csv(index=False), end="")
        print(*(f"tables: missing: {line}\n" for line in (*builder.missing, *notes)), sep="", end="", file=sys.stderr)
    else:
        print(builder.report(args.format, notes))


if __name__ == "__main__":
    sys.exit(main())
