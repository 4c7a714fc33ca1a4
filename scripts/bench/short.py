"""The short form of the three benchmarks, behind `make bench`: at most ten minutes on two quiet cores.

python -m scripts.bench.short
python -m scripts.bench.short --minutes 5 --output-dir output/bench
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dassl.utils.command import Parser, command

from scripts.bench import ot
from scripts.bench.running import MEASURE, OUTPUT, arguments, cases_of, run_cases, table


@command("short")
def main(words: Sequence[str]) -> None:
    """Run all, then print the tables; cases for which the time is too short are listed as such."""
    parser = Parser(prog="short", doc=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="time limit: cases that do not end in it are left out"
    )
    parser.add_argument("--output-dir", "--out", dest="out", type=Path, default=OUTPUT, help="folder of the results")
    args = parser.parse_args(words)
    end = time.monotonic() + 60 * args.minutes
    cases, _ = ot.cases_of("--sizes 198 8 --sizes 8 8 --iterations 5 100 --at-least 3".split())
    texts = [ot.table(run_cases(Path(ot.__file__), cases, args.out / "ot.json", end))]
    for kind, classes in (("step", "50 10"), ("eval", "50 500")):
        words = f"--classes {classes} --naive-up-to 50 --repeat 2".split()
        cases = cases_of(kind, arguments(kind, "").parse_args(words))
        texts.append(table(run_cases(MEASURE, cases, args.out / f"{kind}.json", end)))
    print("\n\n".join(texts), f"\n\nResults: {args.out}")


if __name__ == "__main__":
    sys.exit(main())
