"""The first value that is NaN or infinite stops a run; nothing that holds one is saved, loaded or scored."""

import math

import pytest
import torch
from dassl.engine import build_trainer
from dassl.utils.finite import first_non_finite, named_tensors

NAN = float("nan")


class BadGradient(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def saved(folder):
    return sorted(path.name for path in folder.rglob("model*"))


def test_search_names_the_first_tensor():
    nested = {"a": [torch.ones(2), None, 3], "b": {"c": torch.tensor([1.0, NAN, math.inf]), "d": torch.tensor(NAN)}}
    assert first_non_finite(named_tensors(nested)) == "b.c holds 2 NaN or infinite of 3 values"
    assert first_non_finite([("x", torch.tensor(NAN))]) == "x is nan"
    fine = [torch.tensor([3e38, -3e38]), torch.tensor([6e4]).half(), torch.tensor([1e300], dtype=torch.float64)]
    assert first_non_finite(named_tensors([*fine, torch.tensor([1]), torch.zeros(0), torch.tensor(True)])) == ""


def test_a_gradient_stops_before_the_step(make_cfg, monkeypatch, tmp_path):
    trainer = build_trainer(make_cfg("TRAIN.CHECKPOINT_FREQ", 1))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    forward = trainer.model.forward
    monkeypatch.setattr(trainer.model, "forward", lambda x: BadGradient.apply(forward(x)))
    names = r"the gradient of weight holds 576 NaN or infinite of 576 values at epoch 1, batch 1, learning rate 0.01; "
    with pytest.raises(FloatingPointError, match=names + r"images: \S+\.png, .* and 2 more; try a smaller OPTIM\.LR"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters())) and not saved(tmp_path)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])  # Adam's step size itself overflows
def test_a_rate_that_is_far_too_high_ends_without_a_result(make_cfg, tmp_path, optimizer, batches):
    words = ["OPTIM.NAME", optimizer, "OPTIM.LR", 1e38, "TRAIN.CHECKPOINT_FREQ", 1]
    trainer = build_trainer(make_cfg(*words, "DATALOADER.TRAIN_X.BATCH_SIZE", 18 // batches))
    where = r"at epoch [12], batch [123], learning rate [19]\S*e\+3[78]; images: "
    with pytest.raises(FloatingPointError, match=where):
        trainer.train()
    assert not trainer.test_results
    for path in tmp_path.rglob("model*"):  # huge, but finite
        assert not first_non_finite(named_tensors(torch.load(path, weights_only=True)))


def test_the_last_batch_of_an_epoch_is_checked(make_cfg, tmp_path, monkeypatch):
    """Its loss is finite, and no other one follows it."""
    trainer = build_trainer(make_cfg("OPTIM.MAX_EPOCH", 1))
    step = trainer.optim.step
    monkeypatch.setattr(trainer.optim, "step", lambda *args: (step(*args), trainer.model.weight.data.fill_(math.inf)))
    trainer.train_loader_x = list(trainer.train_loader_x)[:1]
    problem = "the learned tensor weight holds 576 .* at epoch 1, batch 1, learning"
    with pytest.raises(FloatingPointError, match=problem):
        trainer.train()
    assert not saved(tmp_path) and not trainer.test_results


def test_nothing_that_is_not_finite_is_saved(make_cfg, tmp_path):
    trainer = build_trainer(make_cfg("OPTIM.NAME", "adam", "OPTIM.MAX_EPOCH", 1))
    trainer.train()
    before = saved(tmp_path)
    state = trainer.optim.state[trainer.model.weight]["exp_avg_sq"]
    value = float(state[0, 0])
    state[0, 0] = math.inf
    problem = r"tiny of epoch 8 is not saved: optimizer\.state\.0\.exp_avg_sq holds 1 "
    with pytest.raises(FloatingPointError, match=problem):
        trainer.save_model(7, trainer.output_dir)
    state[0, 0] = value
    trainer.model.bias.data[1] = NAN
    with pytest.raises(FloatingPointError, match="state_dict.bias holds 1 NaN or infinite of 3 values"):
        trainer.save_model(7, trainer.output_dir)
    assert saved(tmp_path) == before


def test_scores_that_are_not_finite_are_no_result(make_cfg):
    trainer = build_trainer(make_cfg())
    trainer.model.bias.data[1] = NAN
    for test in (trainer.test, trainer.output_test):
        with pytest.raises(FloatingPointError, match=r"6 of 6 images .* scores .* on test; images: \S*apple_8.png, "):
            test()
    assert not trainer.test_results


def test_an_error_in_the_forward_pass_of_an_evaluation_names_images(make_cfg, monkeypatch):
    trainer = build_trainer(make_cfg())

    def fail(images):
        raise FloatingPointError("z holds 1 non-finite value")

    monkeypatch.setattr(trainer, "model_inference", fail)
    with pytest.raises(FloatingPointError, match=r"z holds 1 .* in the evaluation on val; images: \S*apple_6.png"):
        trainer.test("val")


WEIGHT, BIAS = torch.zeros(3, 192), torch.zeros(3)
GOOD = {"state_dict": {"weight": WEIGHT, "bias": BIAS}, "epoch": 1, "optimizer": None, "scheduler": None}


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "is no checkpoint: it holds a list"),
        ({**GOOD, "state_dict": None}, '"state_dict" holds NoneType; it should hold tensors by name'),
        ({**GOOD, "state_dict": {"weight": 3}}, '"state_dict" holds dict, int'),
        ({k: v for k, v in GOOD.items() if k != "epoch"}, '"epoch" is None; it should be the number of'),
        ({**GOOD, "state_dict": {"weight": torch.zeros(5, 192)}}, "of another model.*size mismatch for weight"),
        ({**GOOD, "epoch": "1"}, "\"epoch\" is '1'"),
        ({**GOOD, "state_dict": {"weight": WEIGHT, "bias": BIAS + NAN}}, "failed: bias holds 3 NaN or infinite of 3"),
        ({**GOOD, "optimizer": {"a": 1}}, 'The optimizer state in ".*" does not fit: KeyError'),
        ({**GOOD, "scheduler": [1]}, "The scheduler state"),
        ({**GOOD, "trainer": {"rng": {"python": 1}}}, "The trainer state in .* is damaged"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(make_cfg, tmp_path, content, message):
    folder = tmp_path / "out" / "tiny"
    folder.mkdir(parents=True)
    torch.save(content, folder / "model.pth.tar-1")
    (folder / "checkpoint").write_text("model.pth.tar-1\n")
    with pytest.raises(ValueError, match=message) as caught:
        build_trainer(make_cfg()).train()
    assert str(tmp_path) in str(caught.value)
