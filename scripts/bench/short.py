"""The short form of the three benchmarks, behind `make bench`: at most ten minutes on two quiet cores.

python -m scripts.bench.short [--minutes 10] [--out output/bench]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from scripts.bench import ot
from scripts.bench.running import MEASURE, PROJECT, arguments, cases_of, run_cases, table

# Name and command line, the most informative first.
PLAN = (
    ("step", "--classes 50 10 --naive-up-to 50 --repeat 2"),
    ("eval", "--classes 50 500 --naive-up-to 50 --repeat 2"),
)


def main() -> None:
    """Run all, then print the tables; cases for which the time is too short are listed as such."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="what does not end in these is left out")
    parser.add_argument("--out", type=Path, default=PROJECT / "output" / "bench")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    solvers = ot.parser().parse_args("--sizes 198 8 --sizes 8 8 --iterations 5 100 --at-least 3".split())
    texts = [ot.table(run_cases(Path(ot.__file__), ot.cases(solvers), args.out / "ot.json", end))]
    for kind, words in PLAN:
        cases = cases_of(kind, arguments(kind, "").parse_args(words.split()))
        texts.append(table(run_cases(MEASURE, cases, args.out / f"{kind}.json", end)))
    print("\n\n".join(texts), f"\n\nResults: {args.out}")


if __name__ == "__main__":
    main()
