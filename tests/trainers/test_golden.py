"""What published implementations compute, and what ours must: logits, four losses, gradient norms (tests/golden)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from prompting.checkpoint import learned_state
from tests.golden import recipe
from tests.trainers.conftest import read_golden
from trainers import METHODS

TRAINERS = {trainer.__name__: trainer for trainer in METHODS}
GOLDENS = {
    "align": "MMP", "align-init": "MMP", "align-flat": "MMP", "coop": "CoOp", "cocoop": "CoCoOp", "plot": "PLOT",
    "vpt": "VPT", "ivlp": "IVLP", "maple": "MaPLe", "upt-released": "Unified",
}  # fmt: skip


def build(golden, trainer, clip_model, make_cfg):
    """Build the golden run's model: every tensor in `drawn` from the recipe, of the others only what has no words."""
    cfg = make_cfg()
    for key, value in golden["config"].items():
        cfg.TRAINER[trainer.node][key] = value
    model = trainer.build_clip(cfg, golden["classnames"], clip_model)
    learned = learned_state(model, model.released_names)
    assert {name: list(tensor.shape) for name, tensor in learned.items()} == golden["shapes"]
    with torch.no_grad():
        for name, tensor in learned.items():
            drawn = torch.from_numpy(recipe.learned(golden["seed"], name, tuple(tensor.shape)))
            if name in golden["drawn"]:
                tensor.copy_(drawn)
            elif trainer.node == "MMP":  # the words of CTX_INIT hold for the first text prompt only
                tensor[1:].copy_(drawn[1:])
    return model, learned


def no_dropout(model):
    """Set every dropout probability to 0, as in the golden runs."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name, golden_clip, golden_resnet, make_cfg):
    golden = read_golden(name)
    clip_model = golden_resnet if name == "plot" else golden_clip
    model, learned = build(golden, TRAINERS[GOLDENS[name]], clip_model, make_cfg)
    no_dropout(model)
    size = model.shape.image_size[0]
    images, labels = recipe.batch(golden["seed"], len(golden["labels"]), len(golden["classnames"]), size)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    assert labels.tolist() == golden["labels"]

    with torch.no_grad():
        logits = model.eval()(images)
    torch.testing.assert_close(logits, torch.tensor(golden["logits"]), atol=2e-3, rtol=0)

    optimizer = torch.optim.SGD(learned.values(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    model.train()
    if name == "plot":
        # The golden run had the whole model in training mode, so that its ResNet used the statistics of the batch. A
        # training run of the plugin does not (only its prompt learner is in training mode), and neither does ours.
        model.clip.visual.train()
    for step, expected in enumerate(golden["losses"]):
        loss = F.cross_entropy(model(images), labels)
        assert loss.item() == pytest.approx(expected, abs=1e-3)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for tensor, norm in golden["grad_norms"].items():
                assert learned[tensor].grad.norm().item() == pytest.approx(norm, rel=0.01), tensor
        optimizer.step()
    if "logits_after" in golden:
        with torch.no_grad():
            logits = model.eval()(images)
        torch.testing.assert_close(logits, torch.tensor(golden["logits_after"]), atol=2e-3, rtol=0)
