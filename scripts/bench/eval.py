"""Benchmark of an evaluation: seconds to score a batch, ours (class features kept) and the naive path (none kept).

    python -m scripts.bench.eval                                          # K 10 .. 1000, M = N 1 .. 8
    python -m scripts.bench.eval --device cuda --precision bf16 --images 4 100 --out ...

The naive path scores one whole batch for each time it is measured, without a run to warm up.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

from prompting.memory import peak_bytes
from scripts.bench import common, measuring, naive, report, running


@torch.no_grad()
def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Return what one case measures: seconds a batch once class features are there, and before that the first one."""
    model, context = common.build(case)
    model.eval()
    images, _ = common.drawn_batch(model, case)
    found, state = {**case, "threads": torch.get_num_threads()}, {}

    def score() -> None:
        with context:
            if case["path"] == "ours":
                state["logits"] = model(images)
            else:
                state["logits"], found["positions"] = naive.logits(model, images)

    def ceiling() -> measuring.Times:
        return measuring.matmul_ceiling(case["device"], measuring.computed_in(case["precision"]))

    ceilings = [ceiling()]
    if case["path"] == "ours":
        first = measuring.seconds(score, 1)[0]
        found["first_batch_seconds"], found["first_batch_cpu_seconds"] = round(first.wall, 4), round(first.cpu, 4)
        found["flops"] = measuring.count_flops(score)
        found["positions"] = {"text": 0, "vision": common.image_positions(model, case)}  # class features are there
    times = measuring.seconds(score, case["repeat"])
    ceilings.append(ceiling())
    found.update(measuring.summary(times))
    found["images_per_second"] = round(case["images"] / found["seconds"], 3)
    found["logits_norm"] = float(state["logits"].double().norm())
    found["peak_gb"] = round((peak_bytes(case["device"]) or 0) / 1e9, 2)
    if case["path"] == "ours" and case["device"] == "cpu":
        found["spent_on"] = measuring.spent_on(score)
    measuring.against_ceiling(found, ceilings)
    return found


def effort(case: dict[str, Any]) -> float:
    """Return roughly how long a case takes."""
    pairs = 0.002 * case["classes"] * case["images"] if case["path"] == "naive" else 0.0
    return pairs + common.effort(case, case["repeat"] + 2 * (case["path"] == "ours"))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description="Images per second in evaluation.")
    common.add_arguments(made, "eval.json")
    made.set_defaults(naive_up_to=1000)  # beyond, a batch takes a quarter of an hour
    return made


def main() -> None:
    """Measure the cases asked for, one process each."""
    args = parser().parse_args()
    if args.case:
        sys.stdout.write(json.dumps(measure(json.loads(args.case))) + "\n")
        return
    results = running.run_cases("scripts.bench.eval", common.cases_of(args), effort, args.out)
    sys.stdout.write(report.terminal(report.eval_table(results)))


if __name__ == "__main__":
    main()
