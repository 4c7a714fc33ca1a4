"""Draw a table of the forms of a model (of ``align-clip distill`` or ``export``): what each gives and costs, as bars
(means, if the table has several data sets).

    python -m experiments.pictures results/distill.csv docs/figures/distill.png --title "A student next to its teacher"
    python -m experiments.pictures results/export.csv docs/figures/export.png

The module also has the pictures of other tables: accuracy over shots as curves; base, new and H as bars; differences
as intervals.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from dassl.utils.command import Parser
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from experiments.runs import command
from experiments.tables import AVERAGE
from prompting.explain.style import INK, LESS, MORE, MUTED, SETTINGS, colour
from prompting.files import write_figure

MEASURES = {  # columns of a table of forms
    "accuracy": "accuracy (%)",
    "same_class": "same answers (%)",
    "size_mb": "size (MB)",
    "peak_mb": "peak memory (MB)",
    "images_per_second": "images per second",
}


@mpl.rc_context(SETTINGS)
def draw_curves(cells: pd.DataFrame, path: Path) -> Figure:
    """Draw means over shots with a band of one standard deviation, a training-free method as a star at zero shots.

    ``cells`` are those of a few-shot ``TableBuilder``; each column is a panel, the average first. The suffix of
    ``path`` is the format. Returns the figure.
    """
    cells = cells.assign(shots=cells["table"].str.split().str[0].astype(int))
    panels = sorted(cells["column"].unique(), key=lambda name: name != AVERAGE)
    numbers = sorted(cells["shots"].unique())  # at equal distances: most of them are small
    methods, columns = list(cells["method"].unique()), min(4, len(panels))
    rows, names = -(-len(panels) // columns), int(2.6 * columns)  # names in a row of the legend
    size = (3.4 * columns + 0.6, 2.8 * rows + 0.3 + 0.25 * -(-len(methods) // names))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels):
        for i, method in enumerate(methods):
            curve = cells[(cells["method"] == method) & (cells["column"] == panel)].dropna(subset="mean")
            places, mean, std = curve["shots"].map(numbers.index), curve["mean"], curve["std"].astype(float).fillna(0)
            style = {"ls": "", "marker": "*", "ms": 9} if set(curve["shots"]) == {0} else {"marker": "o", "ms": 3.5}
            axes.plot(places, mean, c=colour(i), label=method, **style)
            axes.fill_between(places, mean - std, mean + std, color=colour(i), alpha=0.15, lw=0)
        axes.set(title=panel, xlabel="shots per class", ylabel="accuracy (%)")
        axes.set_xticks(range(len(numbers)), labels=numbers)
    lines, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=names, frameon=False)
    write_figure(figure, path, dpi=150)
    return figure


@mpl.rc_context(SETTINGS)
def draw_bars(cells: pd.DataFrame, title: str, path: Path) -> None:
    """Draw base, new and H of every method as bars, with the standard deviation over seeds as whiskers."""
    methods = list(cells["method"].unique())
    mean, std = (cells.pivot(index="method", columns="column", values=name).loc[methods] for name in ("mean", "std"))
    order = ["base", "new", "H"]
    figure = Figure(figsize=(2.5 + 1.1 * len(methods), 3.4), layout="constrained")
    axes = figure.subplots()
    style = {"width": 0.78, "color": [colour(0), colour(1), INK], "rot": 20 if len(methods) > 4 else 0}
    whiskers = {"yerr": std[order].astype(float), "capsize": 2} if std.notna().any(axis=None) else {}
    mean[order].plot.bar(ax=axes, xlabel="", ylabel="accuracy (%)", ylim=(0, 105), legend=False, **style, **whiskers)
    for bars in axes.containers:
        if isinstance(bars, BarContainer):
            axes.bar_label(bars, fmt="%.1f", padding=2, size=7)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="x", visible=False)
    figure.legend(ncols=3, loc="outside lower center")
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
    write_figure(figure, path, dpi=150)


@mpl.rc_context(SETTINGS)
def draw_intervals(table: pd.DataFrame, path: Path) -> Figure:
    """Draw the methods' differences to the reference with their intervals, one panel per column, the best on top.

    ``table`` is that of ``experiments.significance.compare`` with two methods or more; its last column gives the order.
    A method is coloured if its ``q`` is below 0.05. Returns the figure.
    """
    columns = list(table["column"].unique())
    by = table.set_index(["column", "method"])
    reference = by.index[by["difference"].isna()][0][1]
    by = by.fillna({"difference": 0, "from": 0, "to": 0, "q": 1})
    order = list(by.loc[columns[-1], "difference"].sort_values().index)
    # A method far away would squeeze the others.
    bound = max(1.3 * by[["from", "to"]].abs().max(axis=1).quantile(0.9), 1.0)
    figure = Figure(figsize=(2.2 + 2.6 * len(columns), 1.1 + 0.24 * len(order)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns):
        for y, method in enumerate(order):
            row = by.loc[column, method]
            value = row["difference"]
            shown = MUTED if row["q"] >= 0.05 else MORE if value > 0 else LESS
            if abs(value) < bound:
                axes.plot([row["from"], row["to"]], [y, y], c=shown, lw=2.4, solid_capstyle="round")
                axes.plot(value, y, "o", c=shown, ms=5)
            else:
                text, side = (f"◂ {value:.0f}", "left") if value < 0 else (f"{value:+.0f} ▸", "right")
                axes.text(np.sign(value) * bound, y, text, ha=side, va="center", size=8, c=shown)
        axes.axvline(0, c=INK, lw=0.8)
        axes.set(title=f"{column}: {by.loc[column, reference]['figure']:.1f} % with {reference}")
        axes.set(xlabel=f"points above {reference} (colour: q < 0.05)", xlim=(-bound, bound))
        axes.set(yticks=range(len(order)), yticklabels=order, ylim=(-0.6, len(order) - 0.4))
    write_figure(figure, path, dpi=150)
    return figure


@mpl.rc_context(SETTINGS)
def draw_forms(table: pd.DataFrame, title: str, path: Path) -> Figure:
    """Draw the ``MEASURES`` of each form of a model as bars from zero, one panel per measure; return the figure.

    ``table`` has the column ``form`` and some of ``MEASURES``. The first form, the reference, is grey.
    """
    shown = [name for name in MEASURES if name in table and table[name].notna().any()]
    figure = Figure(figsize=(1.2 + 2.2 * len(shown), 1.1 + 0.3 * len(table)), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shown):
        bars = axes.barh(table["form"], table[name], color=[MUTED, *[colour(0)] * (len(table) - 1)], height=0.7)
        labels = ["" if np.isnan(value) else f"{value:,.{int(value < 100)}f}" for value in table[name]]
        axes.bar_label(bars, labels, padding=3, size=8.5)
        axes.set(title=MEASURES[name], xticks=[], xlim=(0, 1.28 * table[name].max()))
        axes.set_xlabel("less is better" if name in ("size_mb", "peak_mb") else "more is better", loc="left", size=8)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(visible=False)
    panels[0].invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
    write_figure(figure, path, dpi=150)
    return figure


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="pictures", doc=__doc__)
    parser.add_argument("table", type=Path, help="CSV file of forms")
    parser.add_argument("figure", type=Path, help="picture to write; the suffix is the format")
    parser.add_argument("--title", default="", help="over the picture")
    args = parser.parse_args(argv)
    table = pd.read_csv(args.table).rename(columns={"name": "form"})  # an export's
    if "same_class" in table:
        table["same_class"] *= 100
    draw_forms(table.groupby("form", sort=False, as_index=False).mean(numeric_only=True), args.title, args.figure)
    print(args.figure)


if __name__ == "__main__":
    sys.exit(main())
