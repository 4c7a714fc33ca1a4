"""Benchmark of one training step: forward, loss, backward; ours and the naive path.

python -m scripts.bench.step --classes 10 50 100 --prompts 4 --naive-up-to 50
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch.nn.functional as F

from scripts.bench import common, naive


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Return what one case measures: seconds of the two passes, peak memory, positions, FLOPs and their share."""
    from trainers.speed import limit_memory

    model = common.build(case).train()
    images, labels = common.drawn_batch(model, case["images"], case["classes"])
    learned = [p for p in model.parameters() if p.requires_grad]
    found, halves, state = dict(case), [], {}
    if case["path"] == "ours":
        prediction = limit_memory(model, case["images"], int(case["max_memory_gb"] * 1e9), "cpu")
        found["predicted_gb"] = round(prediction.total / 1e9, 2)
        found["classes_at_once"] = prediction.classes_at_once
        layout = model.text_encoder.layout(model.tokens, case["prompts"], token_set=model.token_set)
        whole = case["images"] * case["prompts"] * (1 + model.shape.patches + 2)
        found["positions"] = {"text": layout.positions, "vision": whole}

    def step() -> None:
        def forward() -> None:
            if case["path"] == "ours":
                state["logits"] = model(images)
            else:
                state["logits"], found["positions"] = naive.logits(model, images)
            state["loss"] = F.cross_entropy(state["logits"], labels)

        def backward() -> None:
            for tensor in learned:
                tensor.grad = None
            state["loss"].backward()

        halves.append([common.seconds(half, 1)[0] for half in (forward, backward)])

    ceilings = [common.matmul_ceiling()]
    if case["path"] == "ours":
        found["flops"] = common.count_flops(step)
        halves.clear()
    times = common.seconds(step, case["repeat"])
    ceilings.append(common.matmul_ceiling())  # around the run, as the machine's speed may drift
    found.update(common.summary(times), loss=state["loss"].item())
    names = ("forward", "backward")
    middle = halves[sorted(range(len(times)), key=times.__getitem__)[len(times) // 2]]
    found.update({name: round(half.wall, 4) for name, half in zip(names, middle)})
    found.update({f"{name}_cpu": round(half.cpu, 4) for name, half in zip(names, middle)})
    gradients = [tensor.grad for tensor in learned if tensor.grad is not None]
    found["grad_norm"] = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
    found["peak_gb"] = round(common.peak_bytes() / 1e9, 2)
    common.against_ceiling(found, ceilings)
    return found


def main() -> None:
    """Measure the cases asked for, one process each."""
    parser = argparse.ArgumentParser(description="Seconds and memory of a training step.")
    common.add_arguments(parser, "step.json")
    parser.add_argument("--max-memory", type=float, default=8.0, metavar="GB")
    args = parser.parse_args()
    if args.case:
        sys.stdout.write(json.dumps(measure(json.loads(args.case))) + "\n")
        return
    cases = common.cases_of(args, max_memory_gb=args.max_memory)
    common.run_cases("scripts.bench.step", cases, args.out)


if __name__ == "__main__":
    main()
