"""The paper's tables from the results of runs, next to the published figures.

    python -m experiments.tables output --table base2new [--format terminal|markdown|latex|csv]
    python -m experiments.tables output --table fewshot --plot curves.png

OUTPUT is a folder of our runs (``results.json``), a folder of logs that CoOp, MaPLe, PLOT and others left, or a CSV file
of results/. Figures are means over seeds, with the (population) standard deviation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from experiments.collect import RunResult, collect
from experiments.protocols import PROTOCOLS, SHOTS, SUITES, TRAINING_FREE, expand, presentation_order
from experiments.runs import report_errors
from prompting.ot.checks import check_choice

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
AVERAGE = "average"
FORMATS = {"terminal": "simple", "markdown": "github", "latex": "latex_raw", "csv": ""}
MARKS = {  # best and second best
    "terminal": ("{}*", "{}+"),
    "markdown": ("**{}**", "<u>{}</u>"),
    "latex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
}
FIGURES = {
    (f["table"], f["method"], f["dataset"], f["shots"], f["backbone"]): f
    for f in PUBLISHED["figures"]
    if "variant" not in f
}


@dataclass(frozen=True)
class Table:
    """Accuracies of methods (rows) by data set, part or number of shots (columns).

    Args:
        title: heading.
        methods: rows, in order.
        accuracy: percent, indexed by (method, seed); NaN for a missing run.
        published: (method, column) -> published figure and its source.
    """

    title: str
    methods: list[str]
    accuracy: pd.DataFrame
    published: dict[tuple[str, str], tuple[float, str]]

    @property
    def columns(self) -> list[str]:
        return list(self.accuracy.columns)

    @property
    def mean(self) -> pd.DataFrame:
        """Means over seeds, by method; NaN where there is no run."""
        return self.accuracy.groupby(level="method").mean().reindex(self.methods)

    @property
    def std(self) -> pd.DataFrame:
        """Population standard deviations over seeds, by method; NaN for fewer than two."""
        groups = self.accuracy.groupby(level="method")
        return groups.std(ddof=0).where(groups.count() > 1).reindex(self.methods)

    def seeds(self, method: str, column: str) -> list[int]:
        """Return the seeds of the runs behind a figure."""
        found = self.accuracy[column].dropna()
        return [seed for name, seed in found.index if name == method]


def harmonic(base: Any, new: Any) -> Any:
    """Return the harmonic mean H = 2 B N / (B + N); 0 where both are 0."""
    return 2 * base * new / (base + new).replace(0, 1)


class TableBuilder:
    """Builds the tables of one protocol.

    Args:
        protocol: one of ``PROTOCOLS``.
        results: one row per run, with the fields of ``RunResult``.
        datasets: data sets to report; empty for a suite if its source or two of its sets were found, else those found.
        methods: methods to report, found or not; empty for those found.
        shots: numbers of shots to report, found or not; empty for those found. Zero shots are reported where found.

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
    ) -> None:
        known = {*PUBLISHED["names"], *results["method"]}
        for method in methods:
            check_choice("method", method, presentation_order(known))
        parts = {"base2new": ["base", "new"], "fewshot": ["all"]}.get(protocol, ["target"])
        training = ["source", "all"] if protocol in ("xd", "dg") else []
        results = results[results["part"].isin(parts + training)]
        self.protocol = protocol
        self.results = results[results["method"].isin(methods)] if methods else results
        _check_unique(self.results)
        reported = self.results[self.results["part"].isin(parts)]
        self.datasets = list(datasets) or self._expected(set(reported["dataset"]))
        self.suite = next((s for s in SUITES.values() if set(self.datasets) & set(s.datasets(protocol))), None)
        self.source = self.suite.source if self.suite and training else ""
        at = self.results["dataset"].isin([*self.datasets, self.source])
        self.methods = presentation_order(set(methods) or set(self.results[at]["method"]))
        of_all = set(self.results[self.results["part"] == "all"]["shots"])
        self.shots = sorted({*shots, *((of_all & {0}) if shots else of_all)})

    def _expected(self, found: set[str]) -> list[str]:
        trained = set(self.results[self.results["part"] == "source"]["dataset"])
        for suite in SUITES.values():
            if suite.source in trained or len(found & set(suite.datasets(self.protocol))) > 1:
                return suite.datasets(self.protocol)
        return sorted(found)

    def build(self) -> list[Table]:
        """Return the tables: one per data set and their average (base2new), one (xd, dg), one per number of shots."""
        return {"base2new": self._base2new, "fewshot": self._fewshot}.get(self.protocol, self._transfer)()

    def _pivot(self, part: str, shots: int) -> pd.DataFrame:
        """Return accuracies by (method, seed) and data set, with the average for the seeds that no data set lacks."""
        chosen = self.results[(self.results["part"] == part) & (self.results["shots"] == shots)]
        wide = chosen.pivot(index=["method", "seed"], columns="dataset", values="accuracy").reindex(
            columns=self.datasets
        )
        if len(self.datasets) > 1:
            wide[AVERAGE] = wide.mean(axis=1, skipna=False)
        return wide

    def _base2new(self) -> list[Table]:
        base, new = self._pivot("base", SHOTS), self._pivot("new", SHOTS)
        tables = []
        for title in [*base.columns[len(self.datasets) :], *self.datasets]:
            both = pd.DataFrame({"base": base[title], "new": new[title]}, dtype=float)
            if title == AVERAGE:  # neither half alone
                complete = both.groupby(level="method").transform("count").min(axis=1) > 0
                both = both[complete]
            tables.append(self._table(title, both.assign(H=harmonic(both["base"], both["new"])), SHOTS, title))
        return tables

    def _transfer(self) -> list[Table]:
        title = {"xd": "cross-data-set", "dg": "domain generalisation"}[self.protocol]
        wide, runs = self._pivot("target", SHOTS), self.results
        runs = runs[(runs["dataset"] == self.source) & runs["part"].isin(["source", "all"]) & (runs["shots"] == SHOTS)]
        first = runs.groupby("method")["part"].transform("max")  # "source" before "all"
        source = runs[runs["part"] == first].set_index(["method", "seed"])["accuracy"]
        wide = pd.concat([source.rename(self.source), wide], axis=1)
        return [self._table(f"{title}, trained on {self.source}", wide, SHOTS)]

    def _fewshot(self) -> list[Table]:
        tables = []
        for shots in self.shots:
            wide, title = self._pivot("all", shots), f"{shots} shot{'' if shots == 1 else 's'}"
            methods = [name for name in self.methods if (name in TRAINING_FREE) == (shots == 0)]
            tables.append(self._table(title, wide[wide.index.isin(methods, level="method")], shots, methods=methods))
        return tables

    def _table(
        self, title: str, wide: pd.DataFrame, shots: int, dataset: str = "", methods: Sequence[str] | None = None
    ) -> Table:
        """Return a table with its published figures; ``dataset`` is that of all columns, which are then parts."""
        wide.index = wide.index.set_names(["method", "seed"])
        wide, published = wide.sort_index(), {}
        chosen = self.methods if methods is None else list(methods)
        for method in chosen:
            backbones = set(self.results[self.results["method"] == method]["backbone"])
            for column in wide.columns:
                of = dataset or column
                if len(backbones) != 1 or (of == AVERAGE and self.datasets != SUITES["all"].datasets(self.protocol)):
                    continue
                name = PUBLISHED["names"].get(method, method)
                figure = FIGURES.get((self.protocol, name, of, shots, *backbones), {"values": {}})
                key = column if dataset else "accuracy"
                if key in figure["values"]:
                    published[method, column] = (figure["values"][key], figure["source"])
        return Table(title, chosen, wide, published)


def _check_unique(results: pd.DataFrame) -> None:
    keys = ["method", "dataset", "part", "shots", "seed"]
    for _, group in results[results.duplicated(keys, keep=False)].groupby(keys):
        one, other = group.iloc[0], group.iloc[1]
        raise ValueError(
            f"two runs answer for {one.method} on {one.dataset} ({one.part}, {one.shots} shots, seed {one.seed}): "
            f"{one.folder} and {other.folder}; choose with --configs, or name a smaller folder"
        )


def by_shots(tables: Sequence[Table]) -> Table:
    """Return the few-shot tables of a single data set as one, with a column for each number of shots."""
    ((dataset,),) = {tuple(table.columns) for table in tables}
    wide = pd.concat({table.title: table.accuracy[dataset] for table in tables}, axis=1)
    wide.index = wide.index.set_names(["method", "seed"])
    published = {(m, table.title): value for table in tables for (m, _), value in table.published.items()}
    return Table(dataset, presentation_order({m for table in tables for m in table.methods}), wide, published)


def missing(tables: Sequence[Table], seeds: Sequence[int]) -> list[str]:
    """Return a line for the columns of a method that lack the same seeds; averages and H follow from the others."""
    lines = []
    for table in (table for table in tables if table.title != AVERAGE):
        for method in table.methods:
            lacking: dict[tuple[int, ...], list[str]] = {}
            for column in (name for name in table.columns if name not in (AVERAGE, "H")):
                absent = tuple(seed for seed in seeds if seed not in table.seeds(method, column))
                lacking.setdefault(absent, []).append(column)
            for absent, columns in lacking.items():
                if absent:
                    lines.append(f"{method}, {table.title}, {', '.join(columns)}: seed {', '.join(map(str, absent))}")
    return lines


def render(table: Table, form: str, published: bool) -> str:
    """Return one table as text; published figures are in columns of their own, in wide tables in rows."""
    mean, std, dash = table.mean, table.std, "--" if form == "latex" else "-"
    wide = len(table.columns) > 3

    def figure(method: str, column: str) -> str:
        value, spread = mean.at[method, column], std.at[method, column]
        if pd.isna(value):
            return dash
        ranks = sorted({round(other, 2) for other in mean[column].dropna()}, reverse=True)
        rank, several = ranks.index(round(value, 2)), mean[column].count() > 1
        text = MARKS[form][rank].format(f"{value:.2f}") if several and rank < 2 else f"{value:.2f}"
        plus = r" $\pm$ " if form == "latex" else " ± "
        return text + ("" if pd.isna(spread) else f"{plus}{spread:.2f}")

    def known(method: str, column: str) -> list[str]:
        value = table.published.get((method, column), (None,))[0]
        if value is None or pd.isna(mean.at[method, column]):
            return [dash, dash]
        return [f"{value:.2f}", f"{mean.at[method, column] - value:+.2f}"]

    rows, headers = [], ["method"]
    for column in table.columns:
        headers += [column, "published", "difference"] if published and not wide else [column]
    for method in table.methods:
        row = [method]
        for column in table.columns:
            row += [figure(method, column), *(known(method, column) if published and not wide else [])]
        rows.append(row)
        if published and wide:
            both = [known(method, column) for column in table.columns]
            rows += [[f"({word})", *cells] for word, cells in zip(("published", "difference"), zip(*both))]
    if form == "latex":
        rows, (headers,) = ([[cell.replace("_", r"\_") for cell in row] for row in part] for part in (rows, [headers]))
    align = ("left", *["right"] * (len(headers) - 1))
    body = tabulate(rows, headers=headers, tablefmt=FORMATS[form], colalign=align, disable_numparse=True)
    heading = {"markdown": f"### {table.title}\n", "latex": f"% {table.title}"}.get(form, f"{table.title}\n")
    return f"{heading}\n{body}"


def as_frame(tables: Sequence[Table]) -> pd.DataFrame:
    """Return all cells in full precision, one per row."""
    rows = []
    for table in tables:
        mean, std = table.mean, table.std
        for method in table.methods:
            for column in table.columns:
                value, (figure, source) = mean.at[method, column], table.published.get((method, column), (None, None))
                row = {"table": table.title, "method": method, "column": column, "mean": value}
                row |= {"std": std.at[method, column], "seeds": " ".join(map(str, table.seeds(method, column)))}
                if figure is not None and not pd.isna(value):
                    row |= {"published": figure, "difference": value - figure, "source": source}
                rows.append(row)
    columns = ["table", "method", "column", "mean", "std", "seeds", "published", "difference", "source"]
    return pd.DataFrame(rows, columns=columns)


def footer(tables: Sequence[Table], form: str, lacking: Sequence[str], notes: Sequence[str]) -> str:
    """Return the lines below the tables: marks, sources, missing runs, folders without a result."""
    marks = {"terminal": " * best, + second best.", "markdown": " Bold: best; underlined: second best."}.get(form, "")
    lines = [f"Accuracy in percent; mean ± standard deviation over seeds.{marks}"]
    sources = sorted(set(as_frame(tables)["source"].dropna()))
    lines += [f"Published: {'; '.join(sources)}."] if sources else []
    lines += [*(f"Missing: {line}" for line in lacking), *(f"Nothing found in {note}" for note in notes)]
    return "\n".join({"latex": "% ", "markdown": "- "}.get(form, "") + line for line in lines)


def read(output: Path, protocol: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the results in a CSV file, or below a folder (of the protocol's runs if there are any), with notes."""
    if output.suffix == ".csv":
        return pd.read_csv(output, dtype={"config": str}).assign(folder=output), []
    names = {"xd": ("xd",), "dg": ("xd/train", "dg")}.get(protocol, (protocol,))
    found, notes = [], []
    for folder in [output / name for name in names if (output / name).is_dir()] or [output]:
        some, remarks = collect(folder)
        found += some
        notes += remarks
    return pd.DataFrame(found, columns=[field.name for field in fields(RunResult)]), notes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tables", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("output", type=Path, help="folder of runs, ours or logs of others, or a CSV file of results/")
    add("--table", choices=PROTOCOLS, required=True)
    add("--format", choices=FORMATS, default="terminal")
    add("--datasets", nargs="+", default=[], help="names, all or mini; default: what was found")
    add("--methods", nargs="+", default=["all"], help="methods to report; default: all that were found")
    add("--seeds", type=int, nargs="+", help="seeds to report; default: those found")
    add("--shots", type=int, nargs="+", default=[], help="of fewshot, to report; default: those found")
    add("--configs", nargs="+", default=[], help="only runs with these YAML files (stems) or CoOp's folders of settings")
    add("--plot", type=Path, help="draw the few-shot curves into this file")
    args = parser.parse_args(argv)
    return report_errors("tables", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for."""
    if args.plot and args.table != "fewshot":
        raise ValueError(f"--plot draws few-shot curves; the table asked for is {args.table}")
    results, notes = read(args.output, args.table)
    if args.seeds:
        results = results[results["seed"].isin(args.seeds)]
    if args.configs:
        results = results[[bool({name, *name.split("/")} & set(args.configs)) for name in results["config"]]]
    datasets = expand(args.table, args.datasets) if args.datasets else []
    methods = [name for name in args.methods if name != "all"]
    builder = TableBuilder(args.table, results, datasets, methods, args.shots)
    tables = builder.build()
    if all(table.accuracy.empty for table in tables):
        reasons = "".join(f"\n  {note}" for note in notes)
        raise ValueError(f"no result for {args.table} in {args.output}{reasons}")
    if args.plot:
        from experiments.curves import draw

        draw(dict(zip(builder.shots, tables)), args.plot)
    lacking = missing(tables, args.seeds or sorted(set(builder.results["seed"])))
    if args.format == "csv":
        print(as_frame(tables).to_csv(index=False), end="")
        for line in (*lacking, *notes):
            print(f"tables: missing: {line}", file=sys.stderr)
        return 0
    if args.table == "fewshot" and len(builder.datasets) == 1:
        tables = [by_shots(tables)]
    published = any(name in SUITES["all"].datasets(args.table) for name in builder.datasets)
    print("\n\n".join(render(table, args.format, published) for table in tables))
    print(f"\n{footer(tables, args.format, lacking, notes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
