"""Optimizers against their textbook first steps, and what each config key does."""

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_optimizer


def first_step(name, value, gradient, **keys):
    cfg = get_cfg_default()
    cfg.merge_from_list([w for k, v in {"NAME": name, "LR": 0.1, **keys}.items() for w in (f"OPTIM.{k}", v)])
    parameter = torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))
    optimizer = build_optimizer([parameter], cfg.OPTIM)
    parameter.grad = torch.tensor([gradient], dtype=torch.float64)
    optimizer.step()
    return parameter.item()


def test_first_steps():
    w, g, lr, wd = 2.0, 0.3, 0.1, 5e-4
    coupled = g + wd * w
    assert first_step("sgd", w, g) == pytest.approx(w - lr * coupled)
    # The first step of Adam is lr in the gradient's direction, whatever the gradient's size.
    assert first_step("adam", w, g) == pytest.approx(w - lr, abs=1e-6)
    assert first_step("amsgrad", w, g) == pytest.approx(w - lr, abs=1e-6)
    assert first_step("adamw", w, g) == pytest.approx(w * (1 - lr * wd) - lr, abs=1e-6)
    assert first_step("rmsprop", w, g) == pytest.approx(w - lr * coupled / (0.01**0.5 * coupled), abs=1e-5)
    # RAdam starts as SGD on the corrected mean of gradients, with decoupled weight decay.
    assert first_step("radam", w, g) == pytest.approx(w * (1 - lr * wd) - lr * g)
    # An epsilon as large as the gradient halves Adam's step.
    assert first_step("adam", w, g, WEIGHT_DECAY=0.0, ADAM_EPS=0.3) == pytest.approx(w - lr * 0.5)


def test_staged_rates():
    cfg = get_cfg_default()
    cfg.merge_from_list(["OPTIM.STAGED_LR", True, "OPTIM.NEW_LAYERS", ("head",), "OPTIM.LR", 0.1])
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    base, new = build_optimizer(model, cfg.OPTIM).param_groups
    assert (base["lr"], new["lr"]) == pytest.approx((0.01, 0.1))
    assert new["params"][0] is model["head"].weight
    with pytest.raises(TypeError, match="STAGED_LR"):
        build_optimizer(model.parameters(), cfg.OPTIM)
