"""Costs of each method: learned parameters, seconds of a training step and peak memory, with its published H.

    python -m scripts.bench.methods             # all methods; writes results/costs.json and docs/methods.md
    python -m scripts.bench.methods --tables    # only docs/methods.md, from results/costs.json

Every method has the settings of its base-to-new protocol, random weights of ViT-B/16, B images and K classes. The
methods take turns, ``--rounds`` times, so that a load on the machine meets all of them.
"""

import json
import sys
from collections.abc import Sequence

import pandas as pd
from dassl.utils.command import command

from experiments.agreement import published
from experiments.protocols import TRAINING_FREE, config_files, registered_methods
from experiments.rendering import markdown, write_tables
from experiments.tables import FIGURES, PUBLISHED
from scripts.bench.running import MEASURE, PROJECT, arguments, cases_of, run_cases

RESULTS, PAGE = PROJECT / "results" / "costs.json", PROJECT / "docs" / "methods.md"


def costs(results: list[dict]) -> pd.DataFrame:
    """Return one row per method: medians over the rounds, the ratio to CoOp's step, published H and its source."""
    found = pd.DataFrame(results).groupby("method", sort=False).median(numeric_only=True)
    table = pd.DataFrame({"learned parameters": found["learned_parameters"].map("{:,.0f}".format)})
    step = found["cpu_seconds"]  # of one thread: what a quiet core takes, whatever else runs
    table["s/step"], table["x CoOp"] = step, step / step.get("CoOp", float("nan"))
    table["peak GB"], table["published H"] = found["peak_gb"], published("base2new", "H").reindex(found.index)
    keys = [("base2new", PUBLISHED["names"].get(name), "average", 16, "ViT-B/16", "H") for name in found.index]
    table["source"] = [FIGURES[key][1] if key in FIGURES else None for key in keys]
    return table


@command("methods")
def main(words: Sequence[str]) -> None:
    """Measure all methods, and write the table."""
    parser = arguments("methods", __doc__)
    parser.add_argument("--methods", nargs="+", help="registry names (default: all that learn)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument("--tables", action="store_true", help="measure nothing, only write the table again")
    parser.set_defaults(threads=1, classes=[50], max_memory=[0.0], naive_up_to=0, repeat=2, out=RESULTS)
    args = parser.parse_args(words)
    if not args.tables:
        names = args.methods or [name for name in registered_methods() if name not in TRAINING_FREE]
        configs = {name: config_files(name, "base2new", "caltech101", 16)[-1] for name in names}
        cases = [{**case, "config": configs[name]} for name in names for case in cases_of("step", args, name)]
        run_cases(MEASURE, cases * args.rounds, args.out, args.minutes)
    results = json.loads(args.out.read_text(encoding="utf-8"))["results"]
    table = markdown(costs([one for one in results if "failed" not in one]), "method")
    if args.out == RESULTS:
        write_tables(PAGE, lambda name: table if name == "costs" else "")
    print(table, *sorted({f"{one['method']}: {one['failed']}" for one in results if "failed" in one}), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
