"""Does the transport do anything? ALIGN with its plans, with uniform plans, and without the token level, side by side.

    python -m experiments.ablation
    python -m experiments.ablation --seeds 1 --root data --output-dir output/ablation

Base-to-new on the mini source set. A plan is made uniform by a large entropy weight lambda, so that a distance is the
plain mean over all pairs. A finished run is not repeated.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from dassl.utils.command import Parser
from tabulate import tabulate

from experiments.collect import read_folder
from experiments.protocols import RunDefaults, plan
from experiments.runs import PROJECT, command, run_all
from experiments.tables import TableBuilder

DATASET = "mini_source"
UNIFORM = "1000.0"  # of lambda; costs are at most 4, so that all exp(-cost / lambda) are within 0.4 % of 1
VARIANTS = {
    "learned plans on both levels": (),
    "uniform plan on the prompt level": ("TRAINER.ALIGN.LAMBDA_PROMPT", UNIFORM),
    "uniform plans on the token level": ("TRAINER.ALIGN.LAMBDA_TOKEN", UNIFORM),
    "uniform plans on both levels": ("TRAINER.ALIGN.LAMBDA_PROMPT", UNIFORM, "TRAINER.ALIGN.LAMBDA_TOKEN", UNIFORM),
    "no token level": ("TRAINER.ALIGN.BETA", "0.0"),
}


def render(results: dict[str, pd.DataFrame]) -> str:
    """Return the table: base, new and H of each variant, mean and, of several seeds, standard deviation."""
    rows = []
    for variant, found in results.items():
        cells = TableBuilder("base2new", found, [DATASET]).cells
        spread = ("" if pd.isna(std) else f" ± {std:.2f}" for std in cells["std"])
        rows.append([variant, *(f"{mean:.2f}{more}" for mean, more in zip(cells["mean"], spread))])
    headers = ["ALIGN with", "base", "new", "H"]
    align = ("left", "right", "right", "right")
    return tabulate(rows, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="ablation", doc=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="random seeds (default: 1 2 3)")
    parser.add_argument("--root", default="data", help="folder of the data sets; made if it is missing")
    parser.add_argument(
        "--output-dir", "--output", dest="output", type=Path, default=Path("output/ablation"), help="folder of the runs"
    )
    args = parser.parse_args(argv)
    runs = {
        variant: [
            run
            for job in plan(
                "base2new",
                ["ALIGN"],
                [DATASET],
                args.seeds,
                RunDefaults(args.root, args.output / variant.replace(" ", "_"), options=options),
            )
            for run in job
        ]
        for variant, options in VARIANTS.items()
    }
    run_all([run for several in runs.values() for run in several])
    text = render(
        {name: pd.DataFrame([read_folder(PROJECT / run.folder) for run in several]) for name, several in runs.items()}
    )
    print(f"\nBase-to-new on {DATASET}, seeds {', '.join(map(str, args.seeds))}\n\n{text}")


if __name__ == "__main__":
    sys.exit(main())
