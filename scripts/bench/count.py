"""Count what a training step, and a batch of an evaluation, runs through the towers, without running it: positions,
FLOPs, bytes kept for the backward pass.

    python -m scripts.bench.count

Weights are on torch's meta device, where shapes are computed and numbers are not. The counts depend on no machine; what
the transport between the features adds is not in them. As in the `released` reading, tokens carry no gradient.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor

from prompting.memory import plan_memory
from scripts.bench import common, measuring, naive, running


def kept_bytes(run: Any) -> tuple[int, Any]:
    """Return the bytes of the distinct storages that ``run()`` keeps, weights left out, and its result."""
    kept: dict[int, int] = {}
    held = []

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    weights = run.weights
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    return sum(kept.values()), out


class Towers:
    """Both towers of a model on the meta device, ours or naive, as one call that returns their features.

    Args:
        model: from ``common.align_model``.
        path: ``ours`` or ``naive``.
        images: B.
    """

    def __init__(self, model: Any, path: str, images: int) -> None:
        self.model, self.path = model, path
        self.images = torch.empty(images, 3, *model.shape.image_size, device="meta")
        model.to("meta")
        self.prompts = model.prompt_learner()
        if path == "naive":
            model.tokens = model.tokens.to("meta")
        self.weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def __call__(self) -> list[Tensor]:
        model, p = self.model, self.prompts
        if self.path == "naive":
            text, vision = naive.text_features, naive.image_features
            return [*text(model, p.text, p.deep_text)[:2], *vision(model, self.images, p.visual, p.deep_visual)[:2]]
        constant = model.constant_tokens
        read = model.text_encoder(model.tokens, p.text, p.deep_text, token_set=model.token_set, detach_tokens=constant)
        seen = model.image_encoder(self.images, p.visual, p.deep_visual, return_tokens=True, detach_tokens=constant)
        return [read.prompt, read.tokens, seen.prompt, seen.tokens]

    def step(self) -> None:
        """Run forward and backward, with a gradient for the outputs at EOS and CLS."""
        self.prompts = self.model.prompt_learner()
        at_eos, _, at_cls, _ = self()
        (at_eos.sum() + at_cls.sum()).backward()

    @torch.no_grad()
    def score(self) -> None:
        """Run what a batch of an evaluation runs: of ours, whose class features are kept, the images alone."""
        p = self.prompts
        if self.path == "naive":
            self()
        else:
            self.model.image_encoder(self.images, p.visual, p.deep_visual, return_tokens=True)


def count(path: str, backbone: str, classes: int, prompts: int, images: int, at_once: int | None) -> dict[str, Any]:
    """Return the counts of one case."""
    model = common.align_model(backbone, classes, prompts)
    found: dict[str, Any] = {"path": path, "backbone": backbone, "classes": classes, "prompts": prompts}
    found.update(images=images, classes_at_once=at_once or classes)
    seen = common.image_positions(model, found)
    if path == "ours":
        plans = plan_memory(model, images)
        guess = next(plan for plan in plans if plan.classes_at_once == (at_once or classes)).parts
        found["predicted_gb"] = round((guess["vision"] + guess["text"]) / 1e9, 3)
        learned = model.prompt_learner()
        layout = model.text_encoder.layout(model.tokens, (learned.text, *learned.deep_text), model.token_set)
        found["positions"] = {"text": layout.positions}
    else:
        found["positions"] = {"text": prompts * classes * model.shape.context_length}
    found["positions"]["vision"] = seen
    model.text_encoder.classes_at_once = at_once
    towers = Towers(model, path, images)
    found["kept_gb"] = round(kept_bytes(towers)[0] / 1e9, 3)
    found["tflops"] = round(measuring.count_flops(towers.step) / 1e12, 4)
    found["tflops_scoring"] = round(measuring.count_flops(towers.score) / 1e12, 4)
    return found


def main() -> None:
    """Count the cases asked for."""
    parser = argparse.ArgumentParser(description="Positions, FLOPs and kept bytes of a training step's towers.")
    common.add_arguments(parser, "count.json")
    parser.add_argument("--at-once", type=int, default=0, help="classes at once; 0 is all")
    parser.set_defaults(prompts=[4], classes=[50, 100, 500, 1000], naive_up_to=1000)  # it costs no time to speak of
    args = parser.parse_args()
    results = []
    for case in common.cases_of(args):
        at_once = args.at_once or None if case["path"] == "ours" else None
        keys = ("path", "backbone", "classes", "prompts", "images")
        results.append(count(*(case[key] for key in keys), at_once))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**running.made_by(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
