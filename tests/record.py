"""Train five methods on the mini suite at seed 1 and compare their accuracies with recorded ones.

    python -m tests.record            # run what is missing and compare; exit code 1 where an accuracy differs
    python -m tests.record --write    # record anew (with the change that moves a number, and a line in CHANGELOG)

A refactoring keeps these numbers, the goldens (tests/trainers/test_golden.py) and the logs of whole runs
(tests/engine/test_probe.py). It drives train.py alone, so the same script compares any two commits.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_suffix(".json")
METHODS = ("CoOp", "MaPLe", "PLOT", "MMP", "ALIGN")


def accuracy(method: str, part: str, folder: Path, *flags: str) -> float:
    """Return the test accuracy in percent of one call of train.py; a call that has finished is not repeated."""
    results = folder / "results.json"
    if not results.is_file():
        config = PROJECT / "configs"
        words = ["train.py", "--root", "data", "--seed", "1", "--trainer", method, "--output-dir", str(folder), *flags]
        words += ["--dataset-config-file", f"{config}/datasets/mini_source.yaml"]
        words += ["--config-file", f"{config}/trainers/{method}/mini.yaml"]
        words += ["DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", part]
        subprocess.run([sys.executable, *words], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return json.loads(results.read_text())["metrics"]["test"]["accuracy"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the accuracies instead of comparing them")
    parser.add_argument("--output", type=Path, default=PROJECT / "output" / "record", help="folder of the runs")
    args = parser.parse_args()
    found = {}
    for method in METHODS:
        trained = (args.output / method / "base").absolute()
        base = accuracy(method, "base", trained)
        new = accuracy(method, "new", trained.with_name("new"), "--eval-only", "--model-dir", str(trained))
        found[method] = {"base": base, "new": new}
        print(f"{method:<8} base {base:6.2f}   new {new:6.2f}", flush=True)
    if args.write:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    recorded = json.loads(RECORD.read_text())
    moved = [method for method in METHODS if found[method] != recorded[method]]
    for method in moved:
        print(f"{method}: recorded {recorded[method]}, now {found[method]}")
    return 1 if moved else 0


if __name__ == "__main__":
    sys.exit(main())
