"""``python -m experiments.report``: see ``experiments.report.command``."""

import argparse
import sys
from collections.abc import Sequence

from experiments.report import command as report
from experiments.runs import command


@command
def main(argv: Sequence[str] | None = None) -> int:
    about = (report.__doc__ or "").strip()
    parser = argparse.ArgumentParser(
        prog="report", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report.add_arguments(parser)
    return report.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
