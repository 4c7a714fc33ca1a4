"""Compare methods in base-to-new on the mini source set: runs, a table, a picture and a report.

    python -m experiments.compare --methods ZeroshotCLIP ALIGN
    python -m experiments.compare --methods all --seeds 1 2 3 --output-dir output/compare

Each method trains on the base half of the classes and is tested on both halves. A finished run is not repeated, an
interrupted one resumes. Every run is a call of ``train.py``; the commands are in the report.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from dassl.utils.command import Parser
from tabulate import tabulate

from experiments.collect import read_folder
from experiments.pictures import draw_bars
from experiments.protocols import SHOTS, RunDefaults, plan
from experiments.report.compare_page import compare_page
from experiments.report.page import write
from experiments.report.reading import read_run
from experiments.report.run_page import run_page
from experiments.runs import PROJECT, command, run_all
from experiments.tables import TableBuilder, deviations
from prompting.files import write_file

DATASET = "mini_source"


def render(results: pd.DataFrame) -> str:
    """Return accuracies (mean and, of several seeds, standard deviation) and costs, one row per method, with notes."""
    rows = []
    for method, cells in TableBuilder("base2new", results, [DATASET]).cells.groupby("method", sort=False):
        base, new = (results[(results["method"] == method) & (results["part"] == part)] for part in ("base", "new"))
        spread = ("" if pd.isna(std) else f" ± {std:.2f}" for std in cells["std"])
        figures = [f"{mean:.2f}{more}" for mean, more in zip(cells["mean"], spread)]
        seconds = base["seconds"].dropna().mean()
        time = f"{seconds:.0f}" if seconds > 0 else "-"
        parameters = f"{int(base['learned_parameters'].iloc[0]):,}"
        rows.append([method, parameters, *figures, time, f"{new['ms_per_image'].mean():.1f}"])
    headers = ["method", "learned parameters", "base", "new", "H", "training (s)", "test (ms/image)"]
    align = ("left", *["right"] * (len(headers) - 1))
    table = tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)
    return "\n\n".join([table, *deviations(results)])


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="compare", doc=__doc__)
    add = parser.add_argument
    add("--methods", nargs="+", default=["ZeroshotCLIP", "ALIGN"], help="registry names, or all")
    add("--seeds", type=int, nargs="+", default=[1], help="random seeds (default: 1)")
    add("--root", default="data", help="folder of the data sets; made if it is missing")
    add("--output-dir", "--output", dest="output", type=Path, default=Path("output/demo"), help="folder of the runs")
    args = parser.parse_args(argv)
    jobs = plan("base2new", args.methods, [DATASET], args.seeds, RunDefaults(args.root, args.output))
    runs = [run for job in jobs for run in job]
    run_all(runs)

    results = pd.DataFrame([read_folder(PROJECT / run.folder) for run in runs])
    seeds = f"seed{'s' if len(args.seeds) > 1 else ''} {', '.join(map(str, args.seeds))}"
    title = f"Base-to-new on {DATASET}, {SHOTS} shots, {seeds}"
    text, report = render(results), PROJECT / args.output / "report.md"
    draw_bars(TableBuilder("base2new", results, [DATASET]).cells, title, report.with_suffix(".png"))
    commands = "\n".join(run.command() for run in runs)
    about = "Accuracy in percent; H is the harmonic mean of base and new."
    page = f"# {title}\n\n{about}\n\n{text}\n\n![{title}](report.png)\n\n## Commands\n\n```\n{commands}\n```\n"
    write_file(report, page.encode("utf-8", "surrogateescape"))
    last = jobs[-1][0].folder
    write(run_page(read_run(PROJECT / last)), PROJECT / last / "report.html")
    write(compare_page(report.parent, report.with_suffix(".html")), report.with_suffix(".html"))
    print(f"\n{title}\n\n{text}\n\nReport, with a picture: {args.output / 'report.md'}")
    print(f"Report with classes and images, one HTML file: {args.output / 'report.html'}")
    print(f"Report of {jobs[-1][0].method}, with its wrong images and their plans: {last / 'report.html'}")
    print(f"Results, log, TensorBoard and checkpoints of {jobs[-1][0].method}: {jobs[-1][0].folder}")


if __name__ == "__main__":
    sys.exit(main())
