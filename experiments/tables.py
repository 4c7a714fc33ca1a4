"""The paper's tables from the results of runs, next to the published figures.

    python -m experiments.tables output --table base2new [--format terminal|markdown|latex|csv]
    python -m experiments.tables output --table fewshot --plot curves.png

OUTPUT is a folder of our runs (``results.json``), a folder of logs that CoOp, MaPLe, PLOT and others left, or a CSV
file of results/. Figures are means over seeds, with the (population) standard deviation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from experiments.collect import read
from experiments.protocols import PROTOCOLS, SHOTS, SUITES, TRAINING_FREE, expand, presentation_order
from experiments.runs import report_errors
from prompting.ot.checks import check_choice

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
KEY = ["table", "method", "dataset", "shots", "backbone"]
FIGURES = {tuple(f[key] for key in KEY): f for f in PUBLISHED["figures"] if "variant" not in f}
CELLS = ["table", "method", "column", "mean", "std", "seeds", "published", "difference", "source"]
AVERAGE = "average"
Words = Sequence[str]
FORMATS = {"terminal": "simple", "markdown": "github", "latex": "latex_raw", "csv": ""}
MARKS = {  # best and second best
    "terminal": ("{}*", "{}+"),
    "markdown": ("**{}**", "<u>{}</u>"),
    "latex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
}


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
        self, protocol: str, results: pd.DataFrame, datasets: Words = (), methods: Words = (), shots: Sequence[int] = ()
    ) -> None:
        for method in methods:
            check_choice("method", method, presentation_order({*PUBLISHED["names"], *results["method"]}))
        parts = {"base2new": ["base", "new"], "fewshot": ["all"]}.get(protocol, ["target"])
        training = ["source", "all"] if protocol in ("xd", "dg") else []
        results = results[results["part"].isin(parts + training)]
        results = results[results["method"].isin(methods)] if methods else results
        keys = ["method", "dataset", "part", "shots", "seed"]
        for key, (one, other, *_) in results[results.duplicated(keys, keep=False)].groupby(keys)["folder"]:
            run = "{} on {} ({}, {} shots, seed {})".format(*key)
            remedy = "choose with --configs, or name a smaller folder"
            raise ValueError(f"two runs answer for {run}: {one} and {other}; {remedy}")
        self.protocol, self.results = protocol, results
        self.datasets = list(datasets) or self._expected(set(results[results["part"].isin(parts)]["dataset"]))
        suite = next((s for s in SUITES.values() if set(self.datasets) & set(s.datasets(protocol))), None)
        self.source = suite.source if suite and training else ""
        reported = results[results["dataset"].isin([*self.datasets, self.source])]
        self.methods = presentation_order(methods or set(reported["method"]))
        found = set(results[results["part"] == "all"]["shots"])
        self.shots = sorted({*shots, *((found & {0}) if shots else found)})

    def _expected(self, found: set[str]) -> list[str]:
        trained = set(self.results[self.results["part"] == "source"]["dataset"])
        for suite in SUITES.values():
            if suite.source in trained or len(found & set(suite.datasets(self.protocol))) > 1:
                return suite.datasets(self.protocol)
        return sorted(found)

    def build(self) -> pd.DataFrame:
        """Return one row per cell, with the columns ``CELLS``; a cell without runs has no mean.

        The tables are one per data set and their average (base2new), one in all (xd, dg), or one per number of shots.
        """
        build = {"base2new": self._base2new, "fewshot": self._fewshot}.get(self.protocol, self._transfer)
        return pd.DataFrame(build(), columns=CELLS)

    def _pivot(self, part: str, shots: int) -> pd.DataFrame:
        """Return accuracies by (method, seed) and data set, with the average for the seeds that no data set lacks."""
        chosen = self.results[(self.results["part"] == part) & (self.results["shots"] == shots)]
        wide = chosen.pivot(index=["method", "seed"], columns="dataset", values="accuracy")
        wide = wide.reindex(columns=self.datasets)
        return wide.assign(**{AVERAGE: wide.mean(axis=1, skipna=False)}) if len(self.datasets) > 1 else wide

    def _base2new(self) -> list[dict]:
        base, new = self._pivot("base", SHOTS), self._pivot("new", SHOTS)
        cells = []
        for title in sorted(base.columns, key=lambda name: name != AVERAGE):  # the average first
            both = pd.DataFrame({"base": base[title], "new": new[title]}, dtype=float)
            if title == AVERAGE:  # only of both halves
                both = both[both.groupby(level="method").transform("count").min(axis=1) > 0]
            both["H"] = 2 * both["base"] * both["new"] / both.sum(axis=1, skipna=False).replace(0, 1)
            cells += self._cells(title, both, self.methods, SHOTS)
        return cells

    def _transfer(self) -> list[dict]:
        title = {"xd": "cross-data-set", "dg": "domain generalisation"}[self.protocol]
        runs = self.results[(self.results["dataset"] == self.source) & (self.results["shots"] == SHOTS)]
        best = runs.groupby("method")["part"].max()  # "source" if any, else "all"
        runs = runs[runs["part"] == runs["method"].map(best)]
        first = runs.set_index(["method", "seed"])["accuracy"].rename(self.source)
        wide = pd.concat([first, self._pivot("target", SHOTS)], axis=1)
        return self._cells(f"{title}, trained on {self.source}", wide, self.methods, SHOTS)

    def _fewshot(self) -> list[dict]:
        cells = []
        for shots in self.shots:
            methods = [name for name in self.methods if (name in TRAINING_FREE) == (shots == 0)]
            title = f"{shots} shot{'' if shots == 1 else 's'}"
            cells += self._cells(title, self._pivot("all", shots), methods, shots)
        return cells

    def _cells(self, title: str, wide: pd.DataFrame, methods: Sequence[str], shots: int) -> list[dict]:
        """Return the cells of a table from accuracies by (method, seed)."""
        whole, cells = self.datasets == SUITES["all"].datasets(self.protocol), []
        for method in methods:
            backbone, *others = {*self.results[self.results["method"] == method]["backbone"]} or {None}
            for column in wide.columns:
                values = wide[column][wide.index.get_level_values(0) == method].dropna().sort_index()
                seeds = " ".join(str(seed) for _, seed in values.index)
                std = values.std(ddof=0) if len(values) > 1 else None
                cell = {"table": title, "method": method, "column": column, "mean": values.mean(), "std": std}
                dataset, key = (title, column) if self.protocol == "base2new" else (column, "accuracy")
                name = PUBLISHED["names"].get(method, method)
                known = FIGURES.get((self.protocol, name, dataset, shots, None if others else backbone), {})
                if len(values) and key in known.get("values", {}) and (dataset != AVERAGE or whole):
                    figure = known["values"][key]
                    cell |= {"published": figure, "difference": cell["mean"] - figure, "source": known["source"]}
                cells.append({**cell, "seeds": seeds})
        return cells


def missing(cells: pd.DataFrame, seeds: Sequence[int]) -> list[str]:
    """Return a line for the columns of a method that lack the same seeds; averages and H follow from the others."""
    lacking: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells[(cells["table"] != AVERAGE) & ~cells["column"].isin([AVERAGE, "H"])].itertuples():
        absent = [str(seed) for seed in seeds if str(seed) not in cell.seeds.split()]
        if absent:
            lacking.setdefault((cell.method, cell.table, ", ".join(absent)), []).append(cell.column)
    return [f"{method}, {table}, {', '.join(names)}: seed {seed}" for (method, table, seed), names in lacking.items()]


def render(cells: pd.DataFrame, form: str, published: bool) -> str:
    """Return one table as text; published figures are in separate columns, or in rows if the table is wide."""
    title, columns = cells["table"].iloc[0], list(dict.fromkeys(cells["column"]))
    wide, dash = len(columns) > 3, "--" if form == "latex" else "-"

    def figure(value: float, std: float, others: pd.Series) -> str:
        if pd.isna(value):
            return dash
        rank = sorted({round(other, 2) for other in others}, reverse=True).index(round(value, 2))
        text = f"{value:.2f}" if len(others) < 2 or rank > 1 else MARKS[form][rank].format(f"{value:.2f}")
        return text if pd.isna(std) else text + (r" $\pm$ " if form == "latex" else " ± ") + f"{std:.2f}"

    means = {column: cells[cells["column"] == column]["mean"].dropna() for column in columns}
    rows: list[list[str]] = []
    for method, group in cells.groupby("method", sort=False):
        row = [figure(cell.mean, cell.std, means[cell.column]) for cell in group.itertuples()]
        known = [dash if pd.isna(value) else f"{value:.2f}" for value in group["published"]]
        difference = [dash if pd.isna(value) else f"{value:+.2f}" for value in group["difference"]]
        if published and not wide:
            row = [text for three in zip(row, known, difference) for text in three]
        rows.append([method, *row])
        if published and wide:
            rows += [["(published)", *known], ["(difference)", *difference]]
    if published and not wide:
        columns = [head for column in columns for head in (column, "published", "difference")]
    lines = [["method", *columns], *rows]
    if form == "latex":
        lines = [[text.replace("_", r"\_") for text in line] for line in lines]
    align = ("left", *["right"] * len(columns))
    body = tabulate(lines[1:], headers=lines[0], tablefmt=FORMATS[form], colalign=align, disable_numparse=True)
    return {"markdown": f"### {title}\n\n", "latex": f"% {title}\n"}.get(form, f"{title}\n\n") + body


def report(builder: TableBuilder, cells: pd.DataFrame, form: str, lacking: Sequence[str], notes: Sequence[str]) -> str:
    """Return all tables as text, and below them marks, sources, missing runs and folders without a result."""
    if builder.protocol == "fewshot" and len(builder.datasets) == 1:  # numbers of shots side by side
        every = pd.MultiIndex.from_product([builder.methods, cells["table"].unique()], names=["method", "table"])
        cells = cells.drop(columns="column").set_index(["method", "table"]).reindex(every).reset_index()
        cells = cells.rename(columns={"table": "column"}).assign(table=builder.datasets[0])
    published = any(name in SUITES["all"].datasets(builder.protocol) for name in builder.datasets)
    texts = [render(group, form, published) for _, group in cells.groupby("table", sort=False)]
    marks = {"terminal": " * best, + second best.", "markdown": " Bold: best; underlined: second best."}.get(form, "")
    lines = [f"Accuracy in percent; mean ± standard deviation over seeds.{marks}"]
    sources = sorted(set(cells["source"].dropna()))
    lines += [f"Published: {'; '.join(sources)}."] if sources else []
    if "note" in builder.results:
        for (method, note), runs in builder.results.dropna(subset="note").groupby(["method", "note"]):
            lines.append(f"{method} on {', '.join(sorted(set(runs['dataset'])))}: {note}.")
    lines += [*(f"Missing: {line}" for line in lacking), *(f"Nothing found in {note}" for note in notes)]
    start = {"latex": "% ", "markdown": "- "}.get(form, "")
    return "\n\n".join([*texts, "\n".join(start + line for line in lines)])


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
    add("--configs", nargs="+", help="only runs with these YAML files (stems) or CoOp's folders of settings")
    add("--plot", type=Path, help="draw the few-shot curves into this file")
    args = parser.parse_args(argv)
    return report_errors("tables", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Print the table, and draw the few-shot curves if asked."""
    if args.plot and args.table != "fewshot":
        raise ValueError(f"--plot draws few-shot curves; the table asked for is {args.table}")
    results, notes = read(args.output, args.table)
    results = results[results["seed"].isin(args.seeds)] if args.seeds else results
    if args.configs:
        results = results[[bool({name, *name.split("/")} & set(args.configs)) for name in results["config"]]]
    datasets = expand(args.table, args.datasets) if args.datasets else []
    builder = TableBuilder(args.table, results, datasets, [m for m in args.methods if m != "all"], args.shots)
    cells = builder.build() if len(builder.results) else pd.DataFrame(columns=CELLS)
    if cells["mean"].isna().all():
        raise ValueError("\n  ".join([f"no result for {args.table} in {args.output}", *notes]))
    if args.plot:
        from experiments.curves import draw

        draw(cells.assign(shots=cells["table"].str.split().str[0].astype(int)), args.plot)
    lacking = missing(cells, args.seeds or sorted(set(builder.results["seed"])))
    if args.format == "csv":
        print(cells.to_csv(index=False), end="")
        print(*(f"tables: missing: {line}\n" for line in (*lacking, *notes)), sep="", end="", file=sys.stderr)
    else:
        print(report(builder, cells, args.format, lacking, notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
