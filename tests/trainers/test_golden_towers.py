"""TCP, MMA, MMRL and CLIP-LoRA against what their published code computes (tests/golden)."""

from __future__ import annotations

import pytest
import torch

from prompting.checkpoint import learned_state
from prompting.methods import clip_lora, mma, mmrl, tcp
from tests.golden import recipe
from tests.trainers.conftest import read_golden

MODELS = {"tcp": tcp.TCP, "mma": mma.MMA, "mmrl": mmrl.MMRL, "cliplora": clip_lora.CLIPLoRA}
WEIGHTS = {"tcp": {"knowledge": 8.0}, "mmrl": {"ce_class": 0.7, "ce_rep": 0.3}}


def options_of(name, golden):
    config = {key.lower(): value for key, value in golden["config"].items() if key not in ("PREC", "logit_scale")}
    return MODELS[name].options_class(**config, **({"layer": golden["layer"]} if "layer" in golden else {}))


@pytest.mark.parametrize("name", MODELS)
def test_golden(name, golden_clip):
    golden = read_golden(name)
    model = MODELS[name](golden_clip, golden["classnames"], options_of(name, golden), dataset=golden["dataset"])
    learned = learned_state(model, model.released_names)
    assert {n: list(tensor.shape) for n, tensor in learned.items()} == golden["shapes"]
    assert set(learned) == set(golden["drawn"])
    with torch.no_grad():
        for tensor_name, tensor in learned.items():
            factor = [f for part, f in golden["factor"].items() if part in tensor_name]
            drawn = recipe.learned(golden["seed"], tensor_name, tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(drawn) * (factor[0] if factor else 1))
    images, labels = recipe.batch(golden["seed"], len(golden["labels"]), len(golden["classnames"]))
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)

    def check_logits(key):
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(images), torch.tensor(golden[key]), atol=2e-3, rtol=0)
        model.train()

    check_logits("logits")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(learned.values(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    for step, expected in enumerate(golden["losses"]):
        terms, _ = model.loss_terms(images, labels)
        loss = sum(terms.values())
        assert loss.item() == pytest.approx(expected, abs=1e-3)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for term, value in terms.items():
                weight = WEIGHTS.get(name, {}).get(term, 1.0)
                assert value.item() == pytest.approx(weight * golden.get("terms", {term: expected})[term], abs=1e-3)
            for tensor, norm in golden["grad_norms"].items():
                assert learned[tensor].grad.norm().item() == pytest.approx(norm, rel=0.01), tensor
        optimizer.step()
    check_logits("logits_after")
