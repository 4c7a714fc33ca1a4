"""The command ``report``: writes one HTML file that shows a run, or compares the runs below a folder.

    python -m experiments.report --run output/first
    python -m experiments.report --compare output/compare --output-file compare.html

The file holds everything it shows and needs no network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.report.compare_page import compare_page
from experiments.report.page import write
from experiments.report.reading import read_run
from experiments.report.run_page import run_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``report`` to a parser."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", dest="folder", type=Path, metavar="RUN", help="output folder of a tested run")
    what.add_argument("--compare", type=Path, metavar="DIR", help="folder of runs, at any depth, to compare")
    parser.add_argument("--output-file", type=Path, metavar="FILE", help="page to write (default: report.html there)")
    parser.add_argument("--root", type=Path, help="folder of the data sets (default: that of the runs)")
    parser.add_argument("--most", type=int, default=24, help="largest number of images in a gallery (default: 24)")


def run(args: argparse.Namespace) -> int:
    """Write the page that the arguments ask for, print where it is, and return the exit code."""
    if args.most < 0:
        raise ValueError(f"--most is {args.most}; allowed: 0 or more images")
    folder = args.folder or args.compare
    page = args.output_file or folder / "report.html"
    if args.folder:
        text = run_page(read_run(folder, args.root), args.most)
    else:
        text = compare_page(folder, page, args.root, args.most)
    print(write(text, page))
    return 0
