"""``python -m experiments.report``: see ``experiments.report.command``."""

import sys
from collections.abc import Sequence

from dassl.utils.command import Parser

from experiments.report import command as report
from experiments.runs import command


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="report", doc=report.__doc__)
    report.add_arguments(parser)
    return report.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
