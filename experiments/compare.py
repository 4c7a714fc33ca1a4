"""Methods side by side: base-to-new on the mini source set, from nothing to a table and a picture.

    python -m experiments.compare [--methods ZeroshotCLIP ALIGN | all] [--seeds 1 2 3] [--root data] [--output FOLDER]

Each method trains on the base half of the classes and is tested on both halves. A finished run is not repeated, an
interrupted one resumes. Every run is a call of ``train.py``; the commands are in the report.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from experiments.collect import read_folder
from experiments.defaults import RunDefaults
from experiments.protocols import SHOTS, Planner, methods_with_settings
from experiments.runs import PROJECT, report_errors, run_all
from experiments.tables import TableBuilder

DATASET = "mini_source"


def render(results: pd.DataFrame) -> str:
    """Return the table of accuracies and costs, one row per method: mean and, of several seeds, standard deviation."""
    rows = []
    for method, cells in TableBuilder("base2new", results, [DATASET]).build().groupby("method", sort=False):
        base, new = (results[(results["method"] == method) & (results["part"] == part)] for part in ("base", "new"))
        spread = ("" if pd.isna(std) else f" ± {std:.2f}" for std in cells["std"])
        figures = [f"{mean:.2f}{more}" for mean, more in zip(cells["mean"], spread)]
        seconds = base["seconds"].dropna().mean()
        time = f"{seconds:.0f}" if seconds > 0 else "-"
        parameters = f"{int(base['learned_parameters'].iloc[0]):,}"
        rows.append([method, parameters, *figures, time, f"{new['ms_per_image'].mean():.1f}"])
    headers = ["method", "learned parameters", "base", "new", "H", "training (s)", "test (ms/image)"]
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)


def draw(results: pd.DataFrame, title: str, path: Path) -> None:
    """Draw base, new and H of every method as bars, with the standard deviation over seeds as whiskers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cells = TableBuilder("base2new", results, [DATASET]).build()
    methods = list(cells["method"].unique())
    mean, std = (cells.pivot(index="method", columns="column", values=name).loc[methods] for name in ("mean", "std"))
    order = ["base", "new", "H"]
    figure, axes = plt.subplots(figsize=(2.5 + 1.1 * len(methods), 3.4), layout="constrained")
    style = {"width": 0.78, "color": ["#7a9cc6", "#e0a458", "#3b3b58"], "rot": 20 if len(methods) > 4 else 0}
    whiskers = {"yerr": std[order].astype(float), "capsize": 2} if std.notna().any(axis=None) else {}
    mean[order].plot.bar(ax=axes, xlabel="", ylabel="accuracy (%)", title=title, ylim=(0, 100), **style, **whiskers)
    for i, values in enumerate(mean[order].to_numpy()):
        for k, value in enumerate(values):
            axes.annotate(f"{value:.0f}", (i + 0.26 * (k - 1), 1), ha="center", color="white", fontsize=7)
    axes.legend(ncols=3, frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["ZeroshotCLIP", "ALIGN"], help="names, or all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--root", default="data", help="folder of the data sets; made if it is missing")
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    args = parser.parse_args(argv)
    return report_errors("compare", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Execute the missing runs and write the report."""
    methods = methods_with_settings("base2new", [DATASET]) if args.methods == ["all"] else args.methods
    defaults = RunDefaults(args.root, args.output)
    jobs = {(m, seed): Planner(m, seed, defaults).base2new(DATASET, under="") for m in methods for seed in args.seeds}
    runs = [run for job in jobs.values() for run in job]
    run_all(runs)

    results = pd.DataFrame([read_folder(PROJECT / run.folder) for run in runs])
    seeds = f"seed{'s' if len(args.seeds) > 1 else ''} {', '.join(map(str, args.seeds))}"
    title = f"Base-to-new on {DATASET}, {SHOTS} shots, {seeds}"
    text, report = render(results), PROJECT / args.output / "report.md"
    draw(results, title, report.with_suffix(".png"))
    commands = "\n".join(run.command() for run in runs)
    report.write_text(
        f"# {title}\n\nAccuracy in percent; H is the harmonic mean of base and new.\n\n{text}\n\n"
        f"![{title}](report.png)\n\n## Commands\n\n```\n{commands}\n```\n"
    )
    last = jobs[methods[-1], args.seeds[0]][0].folder
    written = {
        "report": args.output / "report.md",
        "picture": args.output / "report.png",
        "results": last / "results.json",
        "log": last / "log.txt",
        "TensorBoard": last / "tensorboard",
        "checkpoints": next((p for p in sorted((PROJECT / last).glob("*/")) if (p / "checkpoint").exists()), last),
    }
    print(f"\n{title}\n\n{text}\n\nWritten (the last five for {methods[-1]}, seed {args.seeds[0]}):")
    for name, path in written.items():
        print(f"  {name:<12} {os.path.relpath(PROJECT / path, PROJECT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
