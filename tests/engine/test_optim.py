"""Learning rates against figures that Dassl prints, closed forms and torch's schedulers; optimizers' first steps."""

import math

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # no optimizer.step() here


def curve(epochs, *words):
    """The rate in each epoch, counted from 1, as `step()` once an epoch gives it."""
    cfg = get_cfg_default()
    cfg.merge_from_list(["OPTIM.NAME", "sgd", *words])
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], cfg.OPTIM)
    scheduler = build_lr_scheduler(optimizer, cfg.OPTIM)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return rates


COSINE = ["OPTIM.LR", 0.0035, "OPTIM.LR_SCHEDULER", "cosine", "OPTIM.MAX_EPOCH", 5]


@pytest.mark.parametrize(
    ("recount", "wanted"),
    [
        (True, [1e-5, 0.0035, 0.00316578, 0.00229078, 0.00120922]),  # of a MaPLe run
        (False, [1e-5, 0.0035, 0.002533, 0.001337, 0.000370]),
    ],
)
def test_figures_of_dassl(recount, wanted):
    words = ["OPTIM.WARMUP_EPOCH", 1, "OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_RECOUNT", recount]
    assert curve(5, *COSINE, *words) == pytest.approx(wanted, abs=5e-9 if recount else 5e-7)


def test_linear_warmup_and_a_cosine_over_the_full_number_of_epochs():
    rates = curve(20, "OPTIM.LR", 0.2, *COSINE[2:4], "OPTIM.MAX_EPOCH", 20, "OPTIM.WARMUP_EPOCH", 4)
    assert rates[:5] == pytest.approx([1e-5, 0.05, 0.1, 0.15, 0.2], rel=1e-12)
    for epoch in range(4, 20):
        assert rates[epoch] == pytest.approx(0.2 / 2 * (1 + math.cos(math.pi * (epoch - 4) / 20)), rel=1e-12)


@pytest.mark.parametrize("name", ["cosine", "single_step", "multi_step"])
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_without_recount_it_is_torchs_recursive_scheduler_started_late(name, warmup):
    words = ["OPTIM.LR", 0.1, "OPTIM.LR_SCHEDULER", name, "OPTIM.STEPSIZE", (3, 7), "OPTIM.MAX_EPOCH", 12]
    rates = curve(25, *words, "OPTIM.WARMUP_EPOCH", warmup, "OPTIM.WARMUP_RECOUNT", False)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12.0),
        "single_step": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1),
        "multi_step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, (3, 7), 0.1),
    }[name]()
    theirs.last_epoch = warmup  # as in Dassl
    for rate in rates[warmup:]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        theirs.step()


def test_nothing_else_can_bend_the_curve():
    cfg = get_cfg_default()
    cfg.merge_from_list(["OPTIM.LR_SCHEDULER", "cosine", "OPTIM.LR", 1.0, "OPTIM.MAX_EPOCH", 4])
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], cfg.OPTIM)
    first, second = build_lr_scheduler(optimizer, cfg.OPTIM), build_lr_scheduler(optimizer, cfg.OPTIM)
    for scheduler in (first, second, first, second):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)  # not the cosine squared


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["OPTIM.LR_SCHEDULER", "cosin"], "cosin"),
        (["OPTIM.WARMUP_EPOCH", 1, "OPTIM.WARMUP_TYPE", "quadratic"], "linear"),
        (["OPTIM.NAME", "lion"], "adamw"),
    ],
)
def test_unknown_settings_are_named(words, text):
    with pytest.raises(ValueError, match=text):
        curve(1, *words)


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
