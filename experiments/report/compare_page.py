"""The report that compares the runs below a folder."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.ticker
import pandas as pd
from matplotlib.axes import Axes

from experiments.collect import collect, harmonic
from experiments.protocols import presentation_order
from experiments.report.compare_images import changed_images
from experiments.report.drawing import chart
from experiments.report.page import render
from experiments.report.reading import EvaluatedRun, read_run
from prompting.explain.curves import Panel, draw_panel, read_curves
from prompting.explain.style import INK, colour

KEYS = ["dataset", "part", "shots"]  # of a setting, in which methods are compared
PARTS = ("base", "new", "source", "target", "all")
MOST_TILES = 6
MOST_NOTES = 4
COMPARED_CURVES = ("loss", "accuracy (%)", "entropy of the plans (nats)")


def compare_page(folder: Path, page: Path, root: str | Path | None = None, most: int = 24) -> str:
    """Return the comparison of the runs below a folder, at any depth, as HTML.

    ``page`` is the file that it will be, for links to the reports of runs; ``root`` the folder of the data sets, None
    for each run's; ``most`` the largest number of images of a setting.

    Raises:
        ValueError: there is no tested run.
    """
    results, notes = collect(folder)
    if not results:
        raise ValueError(f"there is no tested run below {folder}{f' ({notes[0]})' if notes else ''}")
    runs: dict[Path, EvaluatedRun] = {}
    for one in results:
        try:
            runs[one.folder] = read_run(one.folder, root, needs_predictions=False)
        except (FileNotFoundError, ValueError) as error:
            notes.append(f"{error}; its classes are left out")
    table = pd.DataFrame(results)
    table["setting"] = [_setting(row, table) for row in table.to_dict("records")]
    table["part"] = pd.Categorical(table["part"], PARTS)
    table = table.sort_values(KEYS, kind="stable").astype({"part": str})
    methods = presentation_order(set(table["method"]))
    seeds = sorted(set(table["seed"]))
    wide = accuracies(table)
    changes = [_changes(setting, rows, runs, methods, most) for setting, rows in table.groupby("setting", sort=False)]
    return render(
        "compare.html.j2",
        title=f"{len(methods)} methods compared" if len(methods) > 1 else f"Runs of {methods[0]}",
        subtitle=f"{len(results)} runs on {', '.join(dict.fromkeys(table['dataset']))}; "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        key_numbers=_key_numbers(wide),
        notes=notes if len(notes) <= MOST_NOTES else [*notes[:MOST_NOTES], f"... and {len(notes) - MOST_NOTES} more."],
        columns=list(dict.fromkeys(wide["column"])),
        rows=_rows(table, wide, methods),
        accuracy_chart=chart(partial(_dots, wide=wide, methods=methods), "accuracy of each method", _size(wide)),
        curves=_curves(table, methods),
        classes=_classes(table, runs, methods),
        changes=[found for found in changes if found],
        runs=[_run(one, folder, page) for one in table.to_dict("records")],
    )


def _key_numbers(wide: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the best accuracy of each of the last columns, with its method: H, if there is one, first."""
    best = wide.loc[wide.groupby("column", sort=False)["mean"].idxmax()].iloc[::-1].head(MOST_TILES)
    return [(f"{row['mean']:.2f}%", f"{row['column']}: {row['method']}") for row in best.to_dict("records")]


def _setting(row: dict[str, Any], table: pd.DataFrame) -> str:
    """Name data set, classes and shots, leaving out those that all runs have in common."""
    words = {"dataset": row["dataset"], "part": row["part"], "shots": f"{row['shots']} shots"}
    varied = [words[key] for key in KEYS if table[key].nunique() > 1]
    return ", ".join(varied) or row["dataset"]


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds of each method in each setting, and of H where it has both halves.

    Columns: method, column, mean, std.
    """
    rows = table[["method", "setting", "seed", "accuracy"]].rename(columns={"setting": "column"})
    halves = table.pivot_table(index=["method", "dataset", "shots", "seed"], columns="part", values="accuracy")
    if {"base", "new"} <= set(halves.columns):
        halves = halves.dropna(subset=["base", "new"])
        h = harmonic(halves["base"], halves["new"]).rename("accuracy").reset_index()
        several = h["dataset"].nunique() > 1
        h["column"] = [f"{name}, H" if several else "H" for name in h["dataset"]]
        rows = pd.concat([rows, h[rows.columns]])
    groups = rows.groupby(["method", "column"], sort=False)["accuracy"]
    return pd.DataFrame({"mean": groups.mean(), "std": groups.std(ddof=0).where(groups.count() > 1)}).reset_index()


def _rows(table: pd.DataFrame, wide: pd.DataFrame, methods: list[str]) -> list[dict[str, Any]]:
    """Return the accuracies and costs of each method, with the best of each column marked."""
    best, rows = wide.groupby("column", sort=False)["mean"].max(), []
    costs = table[["learned_parameters", "seconds", "ms_per_image"]].astype(float).groupby(table["method"]).mean()
    for method in methods:
        cells = wide[wide["method"] == method].set_index("column")[["mean", "std"]].reindex(best.index)
        cells["best"] = (cells["mean"] == best) & (len(methods) > 1)
        rows.append({"method": method, "cells": cells.to_dict("records"), **costs.loc[method]})
    return rows


def _legend_columns(names: list[str]) -> int:
    return max(1, min(3, 60 // max(map(len, names))))


def _size(wide: pd.DataFrame) -> tuple[float, float]:
    names = list(dict.fromkeys(wide["column"]))
    return 4.6, 0.9 + 0.27 * wide["method"].nunique() + 0.2 * -(-len(names) // _legend_columns(names))


def _dots(axes: Axes, wide: pd.DataFrame, methods: list[str]) -> None:
    """Draw the accuracies of each method on one line, with a bar of one standard deviation."""
    columns = list(dict.fromkeys(wide["column"]))
    marks = ["o", "s", "D", "^", "v", "P"]
    for i, column in enumerate(columns):
        part = wide[wide["column"] == column].set_index("method").reindex(methods)
        tone = INK if column.endswith("H") else colour(i)
        axes.errorbar(
            part["mean"], range(len(methods)), xerr=part["std"].fillna(0), fmt=marks[i % len(marks)], color=tone,
            ms=6, lw=1.4, label=column,
        )  # fmt: skip
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    axes.set_xlabel("accuracy (%)")
    axes.legend(ncols=_legend_columns(columns), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _curves(table: pd.DataFrame, methods: list[str]) -> list[str]:
    """Return charts with the epoch means of each method's first training that has curves."""
    found: dict[str, dict[str, Panel]] = {}
    for row in table.sort_values("seed", kind="stable").to_dict("records"):
        if row["method"] not in found:
            with suppress(FileNotFoundError):
                found[row["method"]] = {panel.title: panel for panel in read_curves(row["folder"])}
    charts = []
    for title in COMPARED_CURVES:
        lines, is_entropy = {}, title.startswith("entropy")
        for method in methods:
            panel = found.get(method, {}).get(title)
            if panel is None or (is_entropy and not panel.uniform):
                continue
            points = panel.lines.get("prompt level") or next(iter(panel.lines.values()))
            # Methods with other numbers of prompts have other uniform plans.
            unit = 100 / panel.uniform[0] if is_entropy else 1.0
            if epochs := [(x, unit * y) for x, y in points if abs(x - round(x)) < 1e-6]:
                lines[method] = epochs
        if lines:
            numbers = [methods.index(name) for name in lines]
            shown = "entropy of the prompt plans (% of uniform)" if is_entropy else title
            charts.append(chart(partial(draw_panel, panel=Panel(shown, lines), colours=numbers), shown, (4.0, 2.8)))
    return charts


def _classes(
    table: pd.DataFrame, runs: dict[Path, EvaluatedRun], methods: list[str]
) -> list[tuple[str, list[str], list[dict[str, Any]]]]:
    """Return for each setting its methods and the accuracy of every class, the most different classes first."""
    found = []
    for setting, rows in table.groupby("setting", sort=False):
        columns = {}
        for method in methods:
            ours = [runs[folder] for folder in rows[rows["method"] == method]["folder"] if folder in runs]
            if ours:
                accuracy = [pd.Series(r.test.get("class_accuracy"), r.classnames, dtype=float) for r in ours]
                columns[method] = pd.concat(accuracy, axis=1).mean(axis=1)
        wide = pd.DataFrame(columns)
        wide = wide.loc[(wide.max(axis=1) - wide.min(axis=1)).sort_values(ascending=False, kind="stable").index]
        lines = [{"name": name, "cells": list(values)} for name, values in zip(wide.index, wide.to_numpy().tolist())]
        found += [(str(setting), list(columns), lines)] if lines else []
    return found


def _changes(
    setting: Any, rows: pd.DataFrame, runs: dict[Path, EvaluatedRun], methods: list[str], most: int
) -> dict[str, Any]:
    """Compare the first seed of each method image by image; {} for fewer than two comparable methods."""
    chosen: dict[str, EvaluatedRun] = {}
    for row in rows.sort_values("seed", kind="stable").to_dict("records"):
        if row["folder"] in runs and not runs[row["folder"]].predictions.empty:
            chosen.setdefault(row["method"], runs[row["folder"]])
    return changed_images(str(setting), {m: chosen[m] for m in methods if m in chosen}, most)


def _run(row: dict[str, Any], folder: Path, page: Path) -> dict[str, Any]:
    report = row["folder"] / "report.html"
    link = Path(os.path.relpath(report, page.parent)).as_posix() if report.is_file() and report != page else ""
    return {**row, "link": link, "folder": row["folder"].relative_to(folder).as_posix()}
