"""The few-shot picture: accuracy over shots, one panel per data set and one for their average."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

AVERAGE, COLUMNS, NAME_WIDTH = "average", 4, 1.3  # panels per row; inches of a method's name in the legend


def draw(cells: pd.DataFrame, path: Path) -> None:
    """Draw means over shots, with a band of one standard deviation; a training-free method is a star at zero shots.

    Args:
        cells: of ``experiments.tables.TableBuilder``, with a column ``shots``.
        path: picture to write; the suffix is the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = sorted(cells["column"].unique(), key=lambda name: name != AVERAGE)  # the average first
    methods = list(cells["method"].unique())
    columns = min(COLUMNS, len(panels))
    rows, names = -(-len(panels) // columns), max(int(3.4 * columns / NAME_WIDTH), 1)
    size = (3.4 * columns + 0.6, 2.8 * rows + 0.3 + 0.25 * -(-len(methods) // names))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes, panel in zip(grid.flat, panels):
        for i, method in enumerate(methods):
            curve = cells[(cells["method"] == method) & (cells["column"] == panel)].dropna(subset="mean")
            shots, mean, std = curve["shots"], curve["mean"], curve["std"].astype(float).fillna(0)
            style = {"ls": "", "marker": "*", "ms": 9} if list(shots) == [0] else {"marker": "o", "ms": 3.5}
            axes.plot(shots, mean, c=f"C{i % 10}", label=method, **style)
            axes.fill_between(shots, mean - std, mean + std, color=f"C{i % 10}", alpha=0.15, lw=0)
        axes.set(title=panel, xlabel="shots per class", ylabel="accuracy (%)", xticks=cells["shots"].unique())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    lines = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=names, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
