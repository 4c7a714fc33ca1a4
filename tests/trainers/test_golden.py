"""What published implementations compute, and what ours must: logits, four losses, gradient norms (tests/golden)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from prompting.checkpoint import learned_state
from tests.golden import recipe
from tests.trainers.conftest import read_golden
from trainers import align

MODELS = {"align": (align.ReleasedCLIP, "MMP")}


def build(golden, model_class, node, clip_model, make_cfg):
    """Build the golden run's model: every tensor in `drawn` from the recipe, of the others only what has no words."""
    cfg = make_cfg()
    for key, value in golden["config"].items():
        cfg.TRAINER[node][key] = value
    model = model_class(cfg, golden["classnames"], clip_model)
    learned = learned_state(model)
    assert {name: list(tensor.shape) for name, tensor in learned.items()} == golden["shapes"]
    with torch.no_grad():
        for name, tensor in learned.items():
            drawn = torch.from_numpy(recipe.learned(golden["seed"], name, tuple(tensor.shape)))
            if name in golden["drawn"]:
                tensor.copy_(drawn)
            elif tensor.dim() == 3:  # the words of CTX_INIT hold for the first text prompt only
                tensor[1:].copy_(drawn[1:])
    return model, learned


@pytest.mark.parametrize("name", ["align", "align-init", "align-flat"])
def test_golden(name, golden_clip, make_cfg):
    golden = read_golden(name)
    model, learned = build(golden, *MODELS[name.split("-")[0]], golden_clip, make_cfg)
    images, labels = recipe.batch(golden["seed"], len(golden["labels"]), len(golden["classnames"]))
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    assert labels.tolist() == golden["labels"]

    with torch.no_grad():
        logits = model.eval()(images)
    torch.testing.assert_close(logits, torch.tensor(golden["logits"]), atol=2e-3, rtol=0)

    optimizer = torch.optim.SGD(learned.values(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    model.train()
    for step, expected in enumerate(golden["losses"]):
        loss = F.cross_entropy(model(images), labels)
        assert loss.item() == pytest.approx(expected, abs=1e-3)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for tensor, norm in golden["grad_norms"].items():
                assert learned[tensor].grad.norm().item() == pytest.approx(norm, rel=0.01), tensor
        optimizer.step()
