"""What is saved and read of a model: its learned tensors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from prompting.checkpoint import learned_state, load_learned, read_state_dict


@pytest.fixture
def model():
    net = nn.Module()
    net.clip = nn.Linear(3, 3).requires_grad_(False)
    net.prompt_learner = nn.Module()
    net.prompt_learner.ctx = nn.Parameter(torch.randn(2, 4))
    net.prompt_learner.deep = nn.ParameterList([nn.Parameter(torch.randn(2, 4))])
    return net


def whole_model(half=True):
    """A checkpoint as the family writes it: frozen weights and class-name buffers beside the learned tensors."""
    state = {
        "prompt_learner.ctx": torch.randn(2, 4),
        "prompt_learner.deep.0": torch.randn(2, 4),
        "prompt_learner.token_prefix": torch.randn(7, 1, 4),
        "prompt_learner.token_suffix": torch.randn(7, 9, 4),
        "image_encoder.conv1.weight": torch.randn(3, 3),
        "text_encoder.ln_final.weight": torch.randn(3),
        "logit_scale": torch.tensor(4.6),
    }
    return {name: value.half() for name, value in state.items()} if half else state


def test_learned_only(model):
    assert list(learned_state(model)) == ["prompt_learner.ctx", "prompt_learner.deep.0"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_whole_model_checkpoint(model, prefix):
    state, frozen = whole_model(), model.clip.weight.clone()
    load_learned(model, {prefix + name: value for name, value in state.items()})
    assert model.prompt_learner.ctx.dtype == torch.float32
    assert torch.equal(model.prompt_learner.ctx, state["prompt_learner.ctx"].float())
    assert torch.equal(model.prompt_learner.deep[0], state["prompt_learner.deep.0"].float())
    assert torch.equal(model.clip.weight, frozen)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda s: s.update({"image_encoder.transformer.resblocks.1.VPT_shallow": torch.zeros(2, 4)}),
            "does not have, first 'image_encoder.transformer.resblocks.1.VPT_shallow'",
        ),
        (lambda s: s.pop("prompt_learner.deep.0"), "lacks 1 of the 2 learned tensors, first 'prompt_learner.deep.0'"),
        (
            lambda s: s.update({"prompt_learner.deep.1": torch.zeros(2, 4)}),
            "does not have, first 'prompt_learner.deep.1'",
        ),
        (
            lambda s: s.update({"prompt_learner.ctx": torch.zeros(3, 4)}),
            r"of shape \(3, 4\), this model needs \(2, 4\)",
        ),
    ],
)
def test_refused_and_left_alone(model, change, message):
    state, before = whole_model(), {name: tensor.clone() for name, tensor in learned_state(model).items()}
    change(state)
    with pytest.raises(ValueError, match=message) as error:
        load_learned(model, state, "run/model.pth.tar-5")
    assert "run/model.pth.tar-5" in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learned_state(model).items())


# ---- reading files

OPTIMIZERS = [torch.optim.SGD, torch.optim.AdamW, torch.optim.RAdam]
SCHEDULES = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5.0),
    "one cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 5),
}


FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])


def write(path, zipped=True, **content):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return str(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
@FORMATS
def test_tensors_are_read_past_pickled_optimizers_and_schedules(tmp_path, kind, schedule, zipped):
    net = nn.Linear(2, 1)
    optimizer = kind(net.parameters(), lr=0.1)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"a.half": torch.randn(3).half(), "b": nn.Parameter(torch.randn(2, 2)), "n": torch.tensor(7)}
    schedules = {"successor": SCHEDULES[schedule](optimizer)}
    path = write(tmp_path / "old.tar", zipped, state_dict=state, epoch=5, scheduler=schedules)
    with pytest.raises(Exception, match="[Ww]eights"):
        torch.load(path, weights_only=True)
    known = set(torch.serialization.get_safe_globals())
    read = read_state_dict(path)
    assert list(read) == list(state)
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items())
    assert set(torch.serialization.get_safe_globals()) == known


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Unknown:
    pass


@FORMATS
def test_files_that_bring_code_are_refused(tmp_path, zipped):
    for thing, name in ((Bomb(str(tmp_path / "exploded")), "mkdir"), (Unknown(), "Unknown"), (nn.ReLU(), "nn.*ReLU")):
        path = write(tmp_path / "bad.tar", zipped, state_dict={"a": torch.ones(1)}, scheduler=thing)
        known = set(torch.serialization.get_safe_globals())
        with pytest.raises(
            ValueError, match=f'Unable to load checkpoint from ".*bad.tar": .*never read: .*{name}'
        ) as error:
            read_state_dict(path)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
        assert set(torch.serialization.get_safe_globals()) == known
    assert not (tmp_path / "exploded").exists()


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nothing.tar"):
        read_state_dict(tmp_path / "nothing.tar")
    with pytest.raises(ValueError, match="is no checkpoint of a run: it holds epoch, optimizer"):
        read_state_dict(write(tmp_path / "other.tar", epoch=1, optimizer={}))
    (tmp_path / "half.tar").write_bytes((tmp_path / "other.tar").read_bytes()[:-40])
    (tmp_path / "empty.tar").write_bytes(b"")
    old = write(tmp_path / "whole.tar", zipped=False, state_dict={"a": torch.ones(3)})
    (tmp_path / "old.tar").write_bytes(Path(old).read_bytes()[:-8])
    for name in ("half", "empty", "old"):
        with pytest.raises(ValueError, match=f"Unable to load checkpoint.*{name}.tar.*damaged"):
            read_state_dict(tmp_path / f"{name}.tar")
