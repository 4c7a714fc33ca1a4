"""Why ALIGN wins or loses on the mini suite: one setting at a time, the others at their defaults.

    python -m experiments.study --seeds 1 --datasets mini_source --output-dir output/study
    python -m experiments.study --tables    # only make the tables of docs/study.md from results/study.csv

Base-to-new on each data set; on the source also the validation images. Results are written to results/study.csv, tables
to docs/study.md. A large entropy weight lambda makes a plan uniform, so that its distance is the mean over all pairs. A
finished run is not repeated.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dassl.utils.command import Parser
from filelock import FileLock

from experiments.collect import harmonic, read_table
from experiments.protocols import SEEDS, SUITES, RunDefaults, plan
from experiments.rendering import markdown, write_tables
from experiments.runs import PROJECT, RunSpec, command, read_results, run_all
from prompting.files import write_file

PAGE, FILE = PROJECT / "docs" / "study.md", PROJECT / "results" / "study.csv"
SOURCE = SUITES["mini"].source
DATASETS = [SOURCE, "mini_food", "mini_sports", "mini_digits"]
UNIFORM = "1000.0"  # lambda of a uniform plan: costs are at most 4, so that exp(-cost / lambda) is within 0.4 % of 1
VARIANTS = {
    "defaults": "",
    "no token level (BETA 0)": "BETA 0.0",
    "BETA 0.1": "BETA 0.1",
    **{f"lambda of prompts {value}": f"LAMBDA_PROMPT {value}" for value in ("0.05", "0.02", "0.01")},
    **{f"lambda of tokens {value}": f"LAMBDA_TOKEN {value}" for value in ("0.05", "0.02", "0.01")},
    "uniform plan of prompts": f"LAMBDA_PROMPT {UNIFORM}",
    "uniform plans of tokens": f"LAMBDA_TOKEN {UNIFORM}",
    "uniform plans of both": f"LAMBDA_PROMPT {UNIFORM} LAMBDA_TOKEN {UNIFORM}",
    **{f"M = N = {m}": f"TEXT_PROMPT_NUMBER {m} VISION_PROMPT_NUMBER {m}" for m in (1, 2)},
    "reading: released": "READING released",
    "coupling: independent": "COUPLING independent",
}
MEASURED = [f"{level}_{name}" for level in ("prompt", "token") for name in ("entropy", "iterations")]
COLUMNS = ["variant", "dataset", "part", "seed", "accuracy", *MEASURED]


def options(variant: str) -> tuple[str, ...]:
    """Return the KEY VALUE words of a variant."""
    words = VARIANTS[variant].split()
    return tuple(word if i % 2 else f"TRAINER.ALIGN.{word}" for i, word in enumerate(words))


def runs_of(variant: str, datasets: Sequence[str], seed: int, defaults: RunDefaults) -> dict[str, list[RunSpec]]:
    """Return the runs of a variant with one seed by tested part, "base", "new" and "val"."""
    folder = defaults.output / re.sub(r"\W+", "_", variant).strip("_")
    jobs = plan("base2new", ["ALIGN"], datasets, [seed], replace(defaults, output=folder, options=options(variant)))
    runs = {"base": [train for train, _ in jobs], "new": [test for _, test in jobs]}
    words = (*options(variant), "TEST.SPLIT", "val")
    runs["val"] = [
        replace(run, base=folder / "validation", trained=run, options=words)
        for run in runs["base"]
        if run.dataset == SOURCE
    ]
    return runs


def measure(run: RunSpec, variant: str, part: str) -> dict[str, Any]:
    """Return a row of the CSV file: accuracy, and mean entropy (in nats) and iterations of the transport."""
    content = read_results(run)
    assert content is not None, run.folder
    split = "val" if part == "val" else "test"
    levels = content["transport"][split]
    found = {f"{level}_{key}": levels[level][key] for level in levels for key in ("entropy", "iterations")}
    values = (variant, run.dataset, part, run.seed, content["metrics"][split]["accuracy"])
    return {**dict(zip(COLUMNS, values)), **found}


def as_share(results: pd.DataFrame) -> pd.DataFrame:
    """Divide entropies by those of uniform plans: ln(M N) for prompts, the variant with uniform plans for tokens."""
    keys = ["dataset", "part", "seed"]
    uniform = results[results["variant"] == "uniform plans of tokens"].set_index(keys)["token_entropy"]
    token = uniform.reindex(pd.MultiIndex.from_frame(results[keys])).to_numpy()
    token = np.where(results["variant"] == "reading: released", np.nan, token)  # ``released`` has other token sets
    found = results["variant"].str.extract(r"M = N = (\d)")[0]
    prompts = found.fillna("4").astype(int)
    with np.errstate(divide="ignore", invalid="ignore"):
        return results.assign(
            prompt_entropy=results["prompt_entropy"] / (2 * np.log(prompts)),
            token_entropy=results["token_entropy"] / token,
        )


def accuracy_table(results: pd.DataFrame) -> str:
    """Return H of each variant and data set, the averages, and the difference of H to the defaults with its spread."""
    seeds = results.pivot(index=["variant", "dataset", "seed"], columns="part", values="accuracy")
    seeds["H"] = harmonic(seeds["base"], seeds["new"])
    by_set = seeds["H"].groupby(["variant", "dataset"]).mean().unstack()
    average = seeds["H"].groupby(["variant", "seed"]).mean().unstack()
    difference = average - average.loc["defaults"]
    table = by_set[[name for name in DATASETS if name in by_set]].copy()
    table["base"], table["new"] = (seeds[part].groupby("variant").mean() for part in ("base", "new"))
    table["H"], table["difference"] = average.mean(axis=1), difference.mean(axis=1)
    table["deviation"] = difference.std(axis=1, ddof=1)
    if "val" in seeds:
        table["validation"] = seeds["val"].groupby("variant").mean()
    order = [name for name in VARIANTS if name in table.index]
    return markdown(table.loc[order], "ALIGN with")


def plan_table(results: pd.DataFrame) -> str:
    """Return entropy (1 = uniform) and iterations of the plans of each variant, on the test images."""
    shares = as_share(results[results["part"] != "val"])
    table = shares.groupby("variant")[MEASURED].mean()
    order = [name for name in VARIANTS if name in table.index]
    formats = ("", ".4f", ".2f", ".4f", ".2f")
    return markdown(table.loc[order].rename(columns=lambda name: name.replace("_", "s: ")), "ALIGN with", formats)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="study", doc=__doc__)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=SEEDS, help="random seeds (default: 1 2 3)")
    add("--datasets", nargs="+", choices=SUITES["mini"].datasets("base2new"), default=DATASETS, help="data sets")
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="settings (default: all)")
    add("--root", default="data", help="folder of the data sets; made if it is missing")
    add("--output-dir", "--output", dest="output", type=Path, default=Path("output/study"), help="folder of the runs")
    add("--tables", action="store_true", help="no runs: only make the tables of docs/study.md again")
    args = parser.parse_args(argv)
    if not args.tables:
        defaults = RunDefaults(args.root, args.output)
        planned = [(v, runs_of(v, args.datasets, seed, defaults)) for seed in args.seeds for v in args.variants]
        run_all([run for _, parts in planned for runs in parts.values() for run in runs])
        rows = [measure(run, v, part) for v, parts in planned for part, runs in parts.items() for run in runs]
        found = pd.DataFrame(rows, columns=COLUMNS)
        with FileLock(FILE.with_name(".lock")):
            known = [read_table(FILE, COLUMNS[:5])] if FILE.is_file() else []
            results = pd.concat([*known, found]).drop_duplicates(COLUMNS[:4], keep="last")
            write_file(FILE, results.sort_values(COLUMNS[:4]).to_csv(index=False).encode())
    results = read_table(FILE, COLUMNS[:5])
    tables = {"accuracy": accuracy_table(results), "plans": plan_table(results)}
    write_tables(PAGE, lambda name: tables.get(name, ""))
    print("\n\n".join(tables.values()))


if __name__ == "__main__":
    sys.exit(main())
