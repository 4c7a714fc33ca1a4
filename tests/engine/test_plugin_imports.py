"""What real plugins import besides the basics, each against its definition or figures that Dassl 0.6.3 computes."""

import math
import random
from importlib import import_module

import numpy as np
import pytest
import torch
from dassl.data.transforms.randaugment import RandAugment
from dassl.metrics.distance import compute_distance_matrix
from dassl.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler
from dassl.optim.radam import RAdam
from dassl.utils import Registry, check_availability
from PIL import Image

IMPORTS = {
    "dassl.engine.trainer": """AverageMeter DataManager MetricMeter SimpleNet SimpleTrainer SummaryWriter TrainerBase
        TrainerX TrainerXU build_backbone build_evaluator build_head build_lr_scheduler build_optimizer
        count_num_param load_checkpoint load_pretrained_weights mkdir_if_missing resume_from_checkpoint
        save_checkpoint tolist_if_not""",
    "dassl.data.data_manager": "DataManager DatasetWrapper INTERPOLATION_MODES build_data_loader build_transform",
    "dassl.metrics": "compute_accuracy compute_distance_matrix cosine_distance euclidean_squared_distance",
    "dassl.optim.lr_scheduler": "AVAI_SCHEDS ConstantWarmupScheduler LinearWarmupScheduler build_lr_scheduler",
    "dassl.optim.radam": "RAdam",
    "dassl.utils.tools": "check_availability get_most_similar_str_to_a_from_b mkdir_if_missing tolist_if_not",
    "dassl.utils.torchtools": """count_num_param load_checkpoint load_pretrained_weights open_specified_layers
        resume_from_checkpoint save_checkpoint""",
}


@pytest.mark.parametrize("module", IMPORTS)
def test_imports(module):
    for name in IMPORTS[module].split():
        assert getattr(import_module(module), name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        import_module(module).Nothing  # noqa: B018


# Sums of all pixels for the seeds 0 to 5, by Dassl 0.6.3's randaugment.py (its np.int read as int).
DASSL = {
    (2, 10): [1071310, 1193502, 0, 1056076, 1200266, 768959],
    (6, 30): [751621, 882308, 293944, 1397765, 204423, 0],
}


@pytest.mark.parametrize("setting", DASSL)
def test_randaugment_is_that_of_dassl(setting):
    """Operations, strengths and use of both random streams."""
    image = Image.fromarray(np.random.RandomState(7).randint(0, 256, (48, 64, 3)).astype(np.uint8))
    for seed, expected in enumerate(DASSL[setting]):
        random.seed(seed)
        np.random.seed(seed)
        result = np.asarray(RandAugment(*setting)(image))
        assert result.shape == (48, 64, 3) and result.sum(dtype=int) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="m of randaugment is 31; allowed: 0 to 30"):
        RandAugment(2, 31)


def test_warmups():
    def curve(scheduler_class, **keys):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10.0)
        scheduler, rates = scheduler_class(optimizer, successor, 3, verbose=False, **keys), []
        for epoch in range(8):
            rates.append(scheduler.get_last_lr()[0])
            assert rates[-1] == optimizer.param_groups[0]["lr"]
            if epoch == 4:  # save, lose and restore
                state = scheduler.state_dict()
                assert not isinstance(state["successor"], torch.optim.lr_scheduler.LRScheduler)
                successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10.0)
                scheduler = scheduler_class(optimizer, successor, 3, **keys)
                optimizer.param_groups[0]["lr"] = rates[-1]
                scheduler.load_state_dict(state)
            optimizer.step()
            scheduler.step()
        return rates

    cosine = [0.05 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(5)]
    assert curve(ConstantWarmupScheduler, cons_lr=1e-5) == pytest.approx([1e-5] * 3 + cosine)
    assert curve(LinearWarmupScheduler, min_lr=1e-5) == pytest.approx([1e-5, 0.1 / 3, 0.2 / 3, *cosine])


def test_radam_by_its_formula():
    """Algorithm 2 of arXiv 1908.03265, with decoupled weight decay; the first five steps are those of SGD."""
    lr, b1, b2, eps, wd = 0.01, 0.9, 0.999, 1e-8, 0.1
    parameter = torch.nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
    optimizer = RAdam([parameter], lr=lr, betas=(b1, b2), eps=eps, weight_decay=wd)
    w, m, v, n_max = 1.5, 0.0, 0.0, 2 / (1 - b2) - 1
    for t in range(1, 21):
        g = math.sin(t)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        n = n_max - 2 * t * b2**t / (1 - b2**t)
        w *= 1 - lr * wd
        if n > 5:
            r = math.sqrt((n - 4) * (n - 2) * n_max / ((n_max - 4) * (n_max - 2) * n))
            w -= lr * r * m / (1 - b1**t) / (math.sqrt(v / (1 - b2**t)) + eps)
        else:
            w -= lr * m / (1 - b1**t)
        parameter.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        assert parameter.item() == pytest.approx(w, rel=1e-6)
    with pytest.raises(ValueError, match="degenerated_to_sgd is False"):
        RAdam([parameter], degenerated_to_sgd=False)


def test_distances_in_loops():
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    for metric, distance in (
        ("euclidean", lambda x, y: sum((p - q) ** 2 for p, q in zip(x, y))),
        ("cosine", lambda x, y: 1 - x @ y / math.sqrt(x @ x) / math.sqrt(y @ y)),
    ):
        expected = torch.tensor([[float(distance(x, y)) for y in b] for x in a], dtype=torch.float64)
        torch.testing.assert_close(compute_distance_matrix(a, b, metric), expected)
    with pytest.raises(ValueError, match=r"do you mean \[cosine\]"):
        compute_distance_matrix(a, b, "cosin")
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) and \(4, 5\)"):
        compute_distance_matrix(a, b.T)


def test_registering_and_finding():
    registry = Registry("THING")

    @registry.register()
    def first():
        pass

    registry.register(dict)
    assert registry.registered_names() == ["first", "dict"] and registry.get("first") is first
    registry.register(type("dict", (), {}), force=True)
    assert registry.get("dict") is not dict
    with pytest.raises(KeyError, match='^An object named "dict" was already registered in "THING" registry$'):
        registry.register(dict)
    with pytest.raises(KeyError, match=r'^Object name "dick" does not .* "THING" registry \(do you mean \[dict\]\?\)$'):
        registry.get("dick")
    with pytest.raises(ValueError, match=r"belong to \[\], but got \[resnet18\], and nothing is registered$"):
        check_availability("resnet18", [])
