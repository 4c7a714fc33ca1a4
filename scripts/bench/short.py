"""The short form of the three benchmarks, what `make bench` runs: at most ten minutes on two quiet cores.

    python -m scripts.bench.short [--minutes 10] [--out output/bench]

What the time was not enough for is listed as left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.bench import common, eval, ot, report, running, step

# The most telling first. Each line: the benchmark and its command line; M = N = 4 and B = 4 where nothing is said.
OT = ["--sizes", "198", "8", "--sizes", "8", "8", "--iterations", "5", "100", "--repeat", "3", "--at-least", "3"]
STEP = ["--prompts", "4", "1", "--classes", "50", "--naive-up-to", "50", "--repeat", "1"]
EVAL = ["--prompts", "4", "--classes", "50", "500", "--naive-up-to", "50", "--repeat", "2"]
SMALL = ["--prompts", "4", "--classes", "10", "--naive-up-to", "50", "--repeat", "1"]


def plan() -> list[tuple[str, Callable[[Any], float], list[dict[str, Any]], Callable[[Any], report.Table]]]:
    """Return name, effort of a case, cases and table of each benchmark."""
    steps = [case for words in (STEP, SMALL) for case in step.cases(step.parser().parse_args(words))]
    return [
        ("ot", ot.effort, ot.cases(ot.parser().parse_args(OT)), report.ot_table),
        ("step", step.effort, steps, report.step_table),
        ("eval", eval.effort, common.cases_of(eval.parser().parse_args(EVAL)), report.eval_table),
    ]


def main() -> None:
    """Run all, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="when these are over, what is left is left out")
    parser.add_argument("--out", type=Path, default=running.PROJECT / "output" / "bench")
    args = parser.parse_args()
    tables = []
    with running.Progress(sum(effort(c) for _, effort, cases, _ in plan() for c in cases), args.minutes) as progress:
        for name, effort, cases, table in plan():
            out = args.out / f"{name}.json"
            tables.append(table(running.run_cases(f"scripts.bench.{name}", cases, effort, out, progress)))
    for table_ in tables:
        sys.stdout.write(report.terminal(table_))
    sys.stdout.write(f"Results: {args.out}\n")


if __name__ == "__main__":
    main()
