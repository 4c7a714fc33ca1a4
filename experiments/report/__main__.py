"""The command ``report``: writes one HTML file that shows a run, or compares the runs below a folder.

    python -m experiments.report --run output/first
    python -m experiments.report --compare output/compare --output-file compare.html

The file holds everything it shows and needs no network.
"""

import argparse
import sys
from collections.abc import Sequence

from dassl.utils.command import Parser

from experiments.report.compare_page import compare_page
from experiments.report.page import write
from experiments.report.reading import read_run
from experiments.report.run_page import run_page
from experiments.runs import command
from prompting.commands.report import add_arguments
from prompting.files import check_place


def run(args: argparse.Namespace) -> int:
    """Write the page that the arguments ask for, print where it is, and return the exit code."""
    if args.most < 0:
        raise ValueError(f"--most is {args.most}; allowed: 0 or more images")
    folder = args.folder or args.compare
    page = args.output_file or folder / "report.html"
    check_place(page)
    if args.folder:
        text = run_page(read_run(folder, args.root), args.most, args.backbone)
    else:
        text = compare_page(folder, page, args.root, args.most)
    print(write(text, page))
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="report", doc=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
