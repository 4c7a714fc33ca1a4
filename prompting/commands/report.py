"""Write one HTML file that shows a run, or compares the runs below a folder.

examples:
  align-clip report --run output/first
  align-clip report --compare output/compare --output-file compare.html

The file holds everything it shows and needs no network. The command needs the project's checkout.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``report`` to a parser."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", dest="folder", type=Path, metavar="RUN", help="output folder of a tested run")
    what.add_argument("--compare", type=Path, metavar="DIR", help="folder of runs, at any depth, to compare")
    parser.add_argument("--output-file", type=Path, metavar="FILE", help="page to write (default: report.html there)")
    parser.add_argument("--root", type=Path, help="folder of the data sets (default: that of the runs)")
    parser.add_argument("--backbone", metavar="CLIP", help="name or file of the CLIP, for plans (default: the run's)")
    parser.add_argument("--most", type=int, default=24, help="largest number of images in a gallery (default: 24)")


def run(args: argparse.Namespace) -> int:
    """Write the page and return the exit code; ``experiments.report`` does it."""
    if not (CHECKOUT / "experiments").is_dir():
        raise ImportError("report needs the project's checkout: install it with pip install -e, or make setup")
    if str(CHECKOUT) not in sys.path:
        sys.path.append(str(CHECKOUT))
    return import_module("experiments.report.__main__").run(args)
