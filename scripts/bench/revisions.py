"""The same case in two checkouts in turn (old, new, old, new, ...): is the new one slower, or does it hold more?

    python -m scripts.bench.revisions OLD_CHECKOUT
    python -m scripts.bench.revisions OLD_CHECKOUT --methods MMP MaPLe CoOp --class-counts 50 500 --kinds step

Each case runs in a separate process, with the .venv of its checkout. Ratios are new to old, of medians over the rounds.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from dassl.utils.command import command

from scripts.bench.running import MEASURE, PROJECT, arguments, call, cases_of

KEYS, FIGURES = ["kind", "method", "classes", "max_memory"], ["seconds", "cpu_seconds", "peak_gb"]


@command("revisions")
def main(words: Sequence[str]) -> None:
    """Run all cases, write their results, and print the ratios."""
    parser = arguments("revisions", __doc__)
    parser.add_argument("old", type=Path, help="the checkout to compare this one with")
    parser.add_argument("--methods", nargs="+", default=["MMP"], help="registry names")
    parser.add_argument("--kinds", nargs="+", default=["step", "eval"], choices=["step", "eval"], help="what to time")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the two checkouts")
    parser.set_defaults(classes=[50], naive_up_to=0)
    args = parser.parse_args(words)
    checkouts = {"old": args.old.resolve(), "new": PROJECT}
    cases = [case for kind in args.kinds for name in args.methods for case in cases_of(kind, args, name)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for case in cases:
        for name, checkout in list(checkouts.items()) * args.rounds:
            results.append({"checkout": name, **call(MEASURE, case, checkout, str(checkout / ".venv/bin/python"))})
            args.out.write_text(json.dumps(results, indent=1) + "\n")
        table = pd.DataFrame(results).reindex(columns=["checkout", *KEYS, *FIGURES, "failed"])
        medians = table.groupby(["checkout", *KEYS], sort=False)[FIGURES].median().unstack("checkout")
        ratio = (medians.xs("new", axis=1, level=1) / medians.xs("old", axis=1, level=1)).add_suffix(", new / old")
        text = pd.concat([medians, ratio.round(3)], axis=1).tail(1).T.to_string()
        print(text, *set(table["failed"].dropna()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
