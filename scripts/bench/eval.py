"""Benchmark of an evaluation: seconds to score a batch, ours (class features kept) and the naive path (none kept).

python -m scripts.bench.eval --classes 50 500 --prompts 4 --naive-up-to 500
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

from scripts.bench import common, naive


@torch.no_grad()
def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Return what one case measures: seconds a batch once class features are there, and before that the first one."""
    model = common.build(case).eval()
    images, _ = common.drawn_batch(model, case["images"], case["classes"])
    found, state = dict(case), {}

    def score() -> None:
        if case["path"] == "ours":
            state["logits"] = model(images)
        else:
            state["logits"], found["positions"] = naive.logits(model, images)

    ceilings = [common.matmul_ceiling()]
    if case["path"] == "ours":
        first = common.seconds(score, 1)[0]
        found["first_batch_seconds"], found["first_batch_cpu_seconds"] = round(first.wall, 4), round(first.cpu, 4)
        found["flops"] = common.count_flops(score)
    times = common.seconds(score, case["repeat"])
    ceilings.append(common.matmul_ceiling())
    found.update(common.summary(times))
    found["images_per_second"] = round(case["images"] / found["seconds"], 3)
    found["logits_norm"] = float(state["logits"].double().norm())
    found["peak_gb"] = round(common.peak_bytes() / 1e9, 2)
    common.against_ceiling(found, ceilings)
    return found


def main() -> None:
    """Measure the cases asked for, one process each."""
    parser = argparse.ArgumentParser(description="Images per second in evaluation.")
    common.add_arguments(parser, "eval.json")
    args = parser.parse_args()
    if args.case:
        sys.stdout.write(json.dumps(measure(json.loads(args.case))) + "\n")
        return
    common.run_cases("scripts.bench.eval", common.cases_of(args), args.out)


if __name__ == "__main__":
    main()
