"""Rank correlation between the methods' averages on the mini suite and the published ones.

    python -m experiments.agreement
    python -m experiments.agreement --page docs/mini.md --figure docs/figures/agreement.png

Spearman's coefficient over the methods with both averages, and a bootstrap interval over the mini suite's data sets.
The table is written between ``<!-- agreement -->`` and ``<!-- end -->`` of the page.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from dassl.utils.command import Parser
from scipy.stats import rankdata, spearmanr
from tabulate import tabulate

from experiments.collect import by_dataset, harmonic, read_table
from experiments.protocols import SHOTS, SUITES, presentation_order
from experiments.rendering import write_tables
from experiments.runs import PROJECT, command
from experiments.tables import AVERAGE, FIGURES, PUBLISHED
from prompting.files import write_figure

BACKBONE = "ViT-B/16"
FIGURE_NAMES = [("base2new", "base"), ("base2new", "new"), ("base2new", "H"), ("xd", "accuracy"), ("dg", "accuracy")]
LEAST = 3  # smallest number of methods for a coefficient
RESAMPLES = 2000


def published(protocol: str, key: str) -> pd.Series:
    """Return published averages by registry name; of two methods with one published name, the first has the average."""
    first = {name: method for method, name in reversed(PUBLISHED["names"].items())}
    keys = {method: (protocol, name, AVERAGE, SHOTS, BACKBONE, key) for name, method in first.items()}
    return pd.Series({method: FIGURES[key][0] for method, key in keys.items() if key in FIGURES}, dtype=float)


def averages(tables: dict[str, pd.DataFrame], key: str, drawn: np.ndarray) -> np.ndarray:
    """Return the averages (methods, draws) over the data sets of each draw, ``drawn`` (draws, sets)."""
    means = {part: table.to_numpy()[:, drawn].mean(2) for part, table in tables.items()}
    return harmonic(means["base"], means["new"]) if key == "H" else means[key]


def agreement(tables: dict[str, pd.DataFrame], key: str, large: pd.Series) -> dict[str, object] | None:
    """Return methods, both averages, Spearman's coefficient and its 95 % interval; None below ``LEAST`` methods.

    ``tables`` has accuracies by method and data set for each part that ``key`` needs: a part, or "H" for the harmonic
    mean of "base" and "new". ``large`` has the published averages by method.
    """
    shared = set(large.index).intersection(*(table.index for table in tables.values()))
    methods = presentation_order(shared)
    if len(methods) < LEAST:
        return None
    tables = {part: table.loc[methods] for part, table in tables.items()}
    sets, target = next(iter(tables.values())).shape[1], large[methods].to_numpy()
    rng = np.random.default_rng(0)
    small = averages(tables, key, np.arange(sets)[None])[:, 0]
    drawn = averages(tables, key, rng.integers(0, sets, (RESAMPLES, sets)))
    ranks = np.column_stack([rankdata(drawn, axis=0), rankdata(target)])
    low, high = np.nanpercentile(np.corrcoef(ranks, rowvar=False)[-1, :-1], [2.5, 97.5])
    return {"methods": methods, "small": small, "large": target, "low": float(low), "high": float(high),
            "rho": float(spearmanr(small, target).statistic)}  # fmt: skip


def compute(folder: Path) -> dict[str, dict]:
    """Return the agreement per average, from the CSV files of results; averages with too few methods are left out."""
    suite, found = SUITES["mini"], {}
    for protocol, key in FIGURE_NAMES:
        file = folder / f"{protocol}.csv"
        if not file.is_file():
            continue
        results, sets = read_table(file), suite.datasets(protocol)
        parts = {"H": ("base", "new"), "accuracy": ("target",)}.get(key, (key,))
        tables = {part: by_dataset(results, part, SHOTS, sets).dropna() for part in parts}
        result = agreement(tables, "target" if key == "accuracy" else key, published(protocol, key))
        if result is not None:
            found[f"base-to-new, {key}" if protocol == "base2new" else protocol] = result
    return found


def render(found: dict[str, dict]) -> str:
    """Return the table as Markdown."""
    lines = [
        (name, f"{r['rho']:+.2f}", f"{r['low']:+.2f} to {r['high']:+.2f}", len(r["methods"]), ", ".join(r["methods"]))
        for name, r in found.items()
    ]
    headers = ["average", "Spearman", "95 % interval", "methods", "which"]
    return tabulate(lines, headers, "github", disable_numparse=True)


def draw(found: dict[str, dict], path: Path) -> None:
    """Draw the published ranks of the methods over their ranks on the mini suite, one panel for each average."""
    from matplotlib.figure import Figure

    from prompting.explain.style import FAINT, INK

    titles = {"xd": "cross-data-set", "dg": "domain generalisation"}
    rows, columns = -(-len(found) // 3), min(len(found), 3)
    figure = Figure(figsize=(4 * columns, 3.8 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, result) in zip(panels, found.items()):
        ranks, last = [rankdata(-result[key]) for key in ("small", "large")], len(result["methods"])
        axes.axline((1, 1), slope=1, color=FAINT, lw=1)
        axes.scatter(*ranks, s=22, color=INK, zorder=2)
        for method, x, y in zip(result["methods"], *ranks):
            right = x < last / 2  # in the right half of the panel: write the name to the left
            offset, side = (-5 if right else 5, 0), "right" if right else "left"
            axes.annotate(method, (x, y), xytext=offset, textcoords="offset points", fontsize=8, ha=side, va="center")
        interval = f"{result['low']:+.2f} to {result['high']:+.2f}"
        title = f"{titles.get(name, name)}\nrank correlation {result['rho']:+.2f}  (95 %: {interval})"
        axes.set_title(title, loc="left", fontsize=10)
        axes.set(xlabel="rank on the mini suite", ylabel="published rank", xlim=(last + 1, 0), ylim=(last + 1, 0))
        axes.set(xticks=range(1, last + 1, 2), yticks=range(1, last + 1, 2))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    write_figure(figure, path, dpi=130)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="agreement", doc=__doc__)
    parser.add_argument("--results", type=Path, default=PROJECT / "results", help="folder of CSV files")
    parser.add_argument("--page", type=Path, help="page to write the table into (default: print it)")
    parser.add_argument("--figure", type=Path, help="picture to write")
    args = parser.parse_args(argv)
    found = compute(args.results)
    if not found:
        raise ValueError(f"{args.results} has no average of {LEAST} methods that also have a published one")
    if args.page:
        write_tables(args.page, lambda name: render(found) if name == "agreement" else "")
    else:
        print(render(found))
    if args.figure:
        draw(found, args.figure)


if __name__ == "__main__":
    sys.exit(main())
