"""The demo: ALIGN beside zero-shot CLIP, base-to-new on the mini source set, from nothing to a table.

    python scripts/demo.py [--seeds 1 2 3] [--methods ZeroshotCLIP ALIGN] [--root data] [--output output/demo]

Trains on the base half of the classes, tests on both halves, prints the table and writes ``report.md``. Runs that are
finished are not run again. Everything goes through ``train.py``, whose command lines are in the report.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev

from tabulate import tabulate
from tqdm import tqdm

PROJECT = Path(__file__).resolve().parent.parent
DATASET, SHOTS, CONFIG = "mini_source", 16, "mini"
HALVES = ("base", "new")


@dataclass(frozen=True)
class Run:
    """One call of train.py: its command line, and where its results go."""

    words: tuple[str, ...]
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / "results.json").is_file()


def plan(method: str, seed: int, root: str, output: Path) -> list[Run]:
    """Return the two runs of base-to-new: train on base (and test there), then test on new."""
    runs = []
    trained = output / "train_base" / DATASET / f"shots_{SHOTS}" / method / CONFIG / f"seed{seed}"
    for half in HALVES:
        folder = trained if half == "base" else Path(str(trained).replace("train_base", "test_new"))
        words = [
            *("--root", root, "--seed", str(seed), "--trainer", method),
            *("--dataset-config-file", f"configs/datasets/{DATASET}.yaml"),
            *("--config-file", f"configs/trainers/{method}/{CONFIG}.yaml"),
            *("--output-dir", str(folder)),
        ]
        if half == "new":
            words += ["--eval-only"] + ([] if method == "ZeroshotCLIP" else ["--model-dir", str(trained)])
        words += ["DATASET.NUM_SHOTS", str(SHOTS), "DATASET.SUBSAMPLE_CLASSES", half]
        runs.append(Run(tuple(words), folder))
    return runs


def execute(run: Run, bar: tqdm) -> None:
    """Run train.py, with its epoch and time left beside the bar; raise with its last words on failure."""
    process = subprocess.Popen(
        [sys.executable, "train.py", *run.words], cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if found := re.search(r"epoch (\[\S+\]).* loss \S+ \((\S+)\).* eta (\S+)", line):
            bar.set_postfix_str(f"epoch {found[1]} loss {found[2]}, {found[3]} left in this run")
            bar.refresh()
    error = process.stderr.read()
    if process.wait():
        raise RuntimeError(error.strip().splitlines()[-1] if error.strip() else f"exit code {process.returncode}")


def harmonic(base: float, new: float) -> float:
    """Return H = 2 B N / (B + N)."""
    return 2 * base * new / (base + new) if base + new else 0.0


def collect(runs: Sequence[Run]) -> tuple[float, float, dict]:
    """Return the accuracies of a base and a new run, and the base run's results."""
    base, new = (json.loads((run.folder / "results.json").read_text()) for run in runs)
    return base["metrics"]["test"]["accuracy"], new["metrics"]["test"]["accuracy"], base


def table(results: dict[str, list[tuple[float, float, dict]]]) -> str:
    """Return the table: a method a row; mean over seeds, with the standard deviation where there are several."""
    rows = []
    for method, seeds in results.items():
        columns = [[b for b, _, _ in seeds], [n for _, n, _ in seeds], [harmonic(b, n) for b, n, _ in seeds]]
        cells = [f"{mean(c):.2f}" + (f" ± {pstdev(c):.2f}" if len(c) > 1 else "") for c in columns]
        seconds = [r["train_seconds"] for _, _, r in seeds if r["train_seconds"]]
        time = f"{mean(seconds):.0f}" if seconds else "-"
        rows.append([method, f"{seeds[0][2]['learned_parameters']:,}", *cells, time])
    return tabulate(
        rows,
        headers=["method", "learned parameters", "base", "new", "H", "training (s)"],
        tablefmt="github",
        colalign=("left", *["right"] * 5),
        disable_numparse=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="+", default=["ZeroshotCLIP", "ALIGN"])
    parser.add_argument("--root", default="data")
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    args = parser.parse_args()

    plans = {(m, s): plan(m, s, args.root, args.output) for m in args.methods for s in args.seeds}
    runs = [run for pair in plans.values() for run in pair]
    with tqdm(runs, desc="runs", unit="run", dynamic_ncols=True) as bar:
        for run in bar:
            if (PROJECT / run.folder / "results.json").is_file():
                continue
            bar.set_description(" ".join(run.folder.parts[-6:-5] + (run.words[5], f"seed {run.words[3]}")))
            try:
                execute(run, bar)
            except RuntimeError as error:
                bar.close()
                print(f"demo: {run.folder} failed: {error}", file=sys.stderr)
                return 1
    results: dict[str, list] = {m: [] for m in args.methods}
    for (method, _), pair in plans.items():
        results[method].append(collect(pair))
    text = table(results)
    report = PROJECT / args.output / "report.md"
    commands = "\n".join(f"python train.py {shlex.join(run.words)}" for run in runs)
    seeds = ", ".join(map(str, args.seeds))
    report.write_text(
        f"# Base-to-new on {DATASET}\n\n{SHOTS} shots, seed {seeds}; accuracy in percent, H the harmonic mean.\n\n"
        f"{text}\n\n## Commands\n\n```\n{commands}\n```\n"
    )
    print(f"\nBase-to-new on {DATASET}, {SHOTS} shots, seed {seeds}\n\n{text}\n\nWritten:")
    shown = plans[args.methods[-1], args.seeds[0]][0].folder
    for what, path in {
        "log": shown / "log.txt",
        "TensorBoard": shown / "tensorboard",
        "checkpoints": shown,
        "results": shown / "results.json",
        "report": args.output / "report.md",
    }.items():
        print(f"  {what:<12} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
