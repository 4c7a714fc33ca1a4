"""What is saved and read of a model: its learned tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prompting.checkpoint import learned_state, load_learned


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
