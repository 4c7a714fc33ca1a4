"""Benchmark of one training step: forward, loss, backward; ours and the naive path.

python -m scripts.bench.step                                          # K 10 .. 1000, M = N 1 .. 8
python -m scripts.bench.step --classes 1000 --prompts 4 --max-memory 8
python -m scripts.bench.step --device cuda --precision bf16 --images 4 100 --max-memory 0 --out ...
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import torch
import torch.nn.functional as F

from scripts.bench import common, measuring, naive, report, running


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Return what one case measures: seconds of the two passes, peak memory, positions, FLOPs and their share."""
    from prompting.memory import configure_memory, held_bytes, peak_bytes

    model, context = common.build(case)
    model.train()
    images, labels = common.drawn_batch(model, case)
    learned = [p for p in model.parameters() if p.requires_grad]
    found, halves, state = {**case, "threads": torch.get_num_threads()}, [], {}
    found["held_gb"] = round((held_bytes(case["device"]) or 0) / 1e9, 2)  # Python, its packages, the weights
    if case["path"] == "ours":
        plan = configure_memory(model, case["images"], int(case["max_memory_gb"] * 1e9), case["device"])
        found["predicted_gb"], found["classes_at_once"] = round(plan.total / 1e9, 2), plan.classes_at_once
        prompts = model.prompt_learner()
        layout = model.text_encoder.layout(model.tokens, (prompts.text, *prompts.deep_text), model.token_set)
        found["positions"] = {"text": layout.positions, "vision": common.image_positions(model, case)}

    def step() -> None:
        def forward() -> None:
            with context:
                if case["path"] == "ours":
                    state["logits"] = model(images)
                else:
                    state["logits"], found["positions"] = naive.logits(model, images)
            state["loss"] = F.cross_entropy(state["logits"], labels)

        def backward() -> None:
            for tensor in learned:
                tensor.grad = None
            state["loss"].backward()

        halves.append([measuring.seconds(half, 1)[0] for half in (forward, backward)])
        found.setdefault("first_seconds", round(sum(half.wall for half in halves[-1]), 4))
        found.setdefault("peak_first_gb", round((peak_bytes(case["device"]) or 0) / 1e9, 2))

    def ceiling() -> measuring.Times:
        return measuring.matmul_ceiling(case["device"], measuring.computed_in(case["precision"]))

    ceilings = [ceiling()]
    if case["path"] == "ours":
        step()  # warms up; the naive path, whose one step takes longest, goes without
        halves.clear()
    in_system = os.times().system
    times = measuring.seconds(step, case["repeat"])
    found["system_seconds"] = round((os.times().system - in_system) / len(times), 4)  # a mean; of all threads
    ceilings.append(ceiling())  # around the run, as the machine's speed may drift
    found.update(measuring.summary(times), loss=state["loss"].item())
    names = ("forward", "backward")
    middle = halves[sorted(range(len(times)), key=times.__getitem__)[len(times) // 2]]
    found.update({name: round(half.wall, 4) for name, half in zip(names, middle)})
    found.update({f"{name}_cpu": round(half.cpu, 4) for name, half in zip(names, middle)})
    gradients = [tensor.grad for tensor in learned if tensor.grad is not None]
    found["grad_norm"] = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
    found["peak_gb"] = round((peak_bytes(case["device"]) or 0) / 1e9, 2)
    if case["path"] == "ours":
        found["flops"] = measuring.count_flops(step)  # last, as what counts takes memory of its own
        if case["device"] == "cpu":
            found["spent_on"] = measuring.spent_on(step)
    measuring.against_ceiling(found, ceilings)
    return found


def effort(case: dict[str, Any]) -> float:
    """Return roughly how long a case takes."""
    return common.effort(case, 3 * (case["repeat"] + (case["path"] == "ours")))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description="Seconds and memory of a training step.")
    common.add_arguments(made, "step.json")
    made.add_argument(
        "--max-memory", type=float, nargs="+", default=[8.0], metavar="GB", help="of our path; 0 is what is free"
    )
    return made


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the cases that the arguments ask for."""
    first, *others = ([*common.cases_of(args, max_memory_gb=most)] for most in args.max_memory)
    return first + [case for more in others for case in more if case["path"] == "ours"]


def main() -> None:
    """Measure the cases asked for, one process each."""
    args = parser().parse_args()
    if args.case:
        sys.stdout.write(json.dumps(measure(json.loads(args.case))) + "\n")
        return
    results = running.run_cases("scripts.bench.step", cases(args), effort, args.out)
    sys.stdout.write(report.terminal(report.step_table(results)))


if __name__ == "__main__":
    main()
