"""Train five methods on the mini suite at seed 1 and compare their accuracies with those in tests/record.json.

    python -m tests.record    # run what is missing in output/record; exit code 1 where an accuracy differs

A refactoring keeps these numbers, the goldens (tests/trainers/test_golden.py) and the logs of whole runs
(tests/engine/test_probe.py). It drives train.py alone, so the same script compares any two commits. A change that moves
a number replaces tests/record.json by output/record/found.json and says so in CHANGELOG.md.
"""

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OUTPUT = PROJECT / "output" / "record"


def accuracy(method: str, part: str, *flags: str) -> float:
    """Return the test accuracy in percent of one call of train.py; a call that has finished is not repeated."""
    results = OUTPUT / method / part / "results.json"
    if not results.is_file():
        words = ["train.py", "--root", "data", "--seed", "1", "--trainer", method, "--output-dir", str(results.parent)]
        words += ["--dataset-config-file", "configs/datasets/mini_source.yaml"]
        words += ["--config-file", f"configs/trainers/{method}/mini.yaml", *flags]
        words += ["DATASET.NUM_SHOTS", "16", "DATASET.SUBSAMPLE_CLASSES", part]
        subprocess.run([sys.executable, *words], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return json.loads(results.read_text())["metrics"]["test"]["accuracy"]


def main() -> int:
    recorded, found = json.loads(Path(__file__).with_suffix(".json").read_text()), {}
    for method in recorded:
        base = accuracy(method, "base")
        new = accuracy(method, "new", "--eval-only", "--model-dir", str(OUTPUT / method / "base"))
        found[method] = {"base": base, "new": new}
        print(f"{method:<8} base {base:6.2f}   new {new:6.2f}   recorded {recorded[method]}", flush=True)
    (OUTPUT / "found.json").write_text(json.dumps(found, indent=1) + "\n")
    return int(found != recorded)


if __name__ == "__main__":
    sys.exit(main())
