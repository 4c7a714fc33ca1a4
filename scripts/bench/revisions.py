"""The same case in two checkouts in turn (old, new, old, new, ...): is the new one slower, or does it hold more?

    python -m scripts.bench.revisions OLD_CHECKOUT
    python -m scripts.bench.revisions OLD_CHECKOUT --methods MMP MaPLe CoOp --class-counts 50 500 --kinds step

Each case runs in a separate process, with the .venv of its checkout. Ratios are new to old, of medians over the rounds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from dassl.utils.command import command

from scripts.bench.running import MEASURE, PROJECT, arguments, cases_of, run_cases

KEYS, FIGURES = ["kind", "method", "classes", "max_memory"], ["seconds", "cpu_seconds", "peak_gb"]


@command("revisions")
def main(words: Sequence[str]) -> None:
    """Run all cases, write their results, and print the medians and their ratios."""
    parser = arguments("revisions", __doc__)
    parser.add_argument("old", type=Path, help="the checkout to compare this one with")
    parser.add_argument("--methods", nargs="+", default=["MMP"], help="registry names")
    parser.add_argument("--kinds", nargs="+", default=["step", "eval"], choices=["step", "eval"], help="what to time")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the two checkouts")
    parser.set_defaults(classes=[50], naive_up_to=0)
    args = parser.parse_args(words)
    checkouts = [str(args.old.resolve()), str(PROJECT)] * args.rounds
    cases = [case for kind in args.kinds for name in args.methods for case in cases_of(kind, args, name)]
    results = run_cases(MEASURE, [{"checkout": c, **case} for case in cases for c in checkouts], args.out, args.minutes)
    table = pd.DataFrame(results).reindex(columns=["checkout", *KEYS, *FIGURES, "failed"])
    table["checkout"] = table["checkout"].map(dict(zip(checkouts, ("old", "new"))))
    medians = table.groupby(["checkout", *KEYS], sort=False)[FIGURES].median().unstack("checkout")
    new, old = (medians.xs(name, axis=1, level=1) for name in ("new", "old"))
    print(pd.concat([medians, (new / old).add_suffix(", new / old").round(3)], axis=1).T.to_string())
    print(*set(table["failed"].dropna()), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
