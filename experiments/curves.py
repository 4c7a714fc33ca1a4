"""The few-shot picture: accuracy over shots, one panel per data set and one for their average."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiments.tables import AVERAGE, Table

COLUMNS, NAME_WIDTH = 4, 1.3  # panels per row; inches of a method's name in the legend


def draw(tables: Mapping[int, Table], path: Path) -> None:
    """Draw means over shots, with a band of one standard deviation; a training-free method is a star at zero shots.

    Args:
        tables: number of shots -> few-shot table.
        path: picture to write; the suffix is the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = sorted(next(iter(tables.values())).columns, key=lambda name: name != AVERAGE)  # the average first
    methods = list(dict.fromkeys(method for table in tables.values() for method in table.methods))
    columns = min(COLUMNS, len(panels))
    rows, names = -(-len(panels) // columns), max(int(3.4 * columns / NAME_WIDTH), 1)
    size = (3.4 * columns + 0.6, 2.8 * rows + 0.3 + 0.25 * -(-len(methods) // names))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes, panel in zip(grid.flat, panels):
        for i, method in enumerate(methods):
            of = {k: t for k, t in tables.items() if method in t.methods and t.seeds(method, panel)}
            mean, std = ([getattr(t, part).at[method, panel] for t in of.values()] for part in ("mean", "std"))
            style = {"marker": "*", "markersize": 9} if list(of) == [0] else {"marker": "o", "markersize": 3.5}
            if of:
                axes.plot(list(of), mean, color=f"C{i % 10}", label=method, **style)
                low, high = ([m + sign * s for m, s in zip(mean, std)] for sign in (-1, 1))
                axes.fill_between(list(of), low, high, color=f"C{i % 10}", alpha=0.15, linewidth=0)
        axes.set(title=panel, xlabel="shots per class", ylabel="accuracy (%)", xticks=list(tables))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    lines = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=names, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
