"""What is saved and read of a model: its learned tensors."""

from pathlib import Path

import pytest
import torch
from dassl.utils import load_checkpoint
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


def whole_model():
    """A float16 checkpoint as the family writes it: frozen weights, class-name buffers and learned tensors."""
    learned = {"ctx": (2, 4), "deep.0": (2, 4), "token_prefix": (7, 1, 4), "token_suffix": (7, 9, 4)}
    frozen = {"image_encoder.conv1.weight": (3, 3), "text_encoder.ln_final.weight": (3,), "logit_scale": ()}
    shapes = {**{f"prompt_learner.{name}": shape for name, shape in learned.items()}, **frozen}
    return {name: torch.randn(shape).half() for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_whole_model_checkpoint(model, prefix):
    state, frozen = whole_model(), model.clip.weight.clone()
    load_learned(model, {prefix + name: value for name, value in state.items()})
    assert model.prompt_learner.ctx.dtype == torch.float32
    assert torch.equal(model.prompt_learner.ctx, state["prompt_learner.ctx"].float())
    assert torch.equal(model.prompt_learner.deep[0], state["prompt_learner.deep.0"].float())
    assert torch.equal(model.clip.weight, frozen)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_learned_tensors_that_are_not_finite_are_refused(model, value):
    state, before = whole_model(), model.prompt_learner.ctx.detach().clone()
    state["image_encoder.conv1.weight"][0, 0] = value  # is not read
    load_learned(model, state)
    state["prompt_learner.deep.0"][1, 2] = value
    model.prompt_learner.ctx.data.copy_(before)
    with pytest.raises(ValueError, match=r"a.tar comes from a training that failed: prompt_learner.deep.0 holds 1 NaN"):
        load_learned(model, state, "a.tar")
    assert torch.equal(model.prompt_learner.ctx, before)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(2, 4, dtype=torch.complex64), "a.tar has 'prompt_learner.ctx' of torch.complex64; allowed: "),
        (torch.ones(2, 4, dtype=torch.int64), "of torch.int64"),
        (torch.ones(2, 4, dtype=torch.bool), "of torch.bool"),
        (torch.full((2, 4), 1e300, dtype=torch.float64), "prompt_learner.ctx holds 8 NaN or infinite"),
    ],
)
def test_learned_tensors_of_another_kind_are_refused(model, value, words):
    """Copying would drop imaginary parts, read numbers that are no prompts, or make 1e300 infinite."""
    before = model.prompt_learner.ctx.detach().clone()
    with pytest.raises(ValueError, match=words):
        load_learned(model, {**whole_model(), "prompt_learner.ctx": value}, "a.tar")
    assert torch.equal(model.prompt_learner.ctx, before)


def test_a_tensor_that_is_there_twice_is_refused(model):
    state = whole_model()
    with pytest.raises(ValueError, match="a.tar holds 'prompt_learner.ctx' twice, with and without the prefix"):
        load_learned(model, {**state, "module.prompt_learner.ctx": state["prompt_learner.ctx"] + 1}, "a.tar")


PROMPT = "image_encoder.transformer.resblocks.1.VPT_shallow"


@pytest.mark.parametrize(
    "name, shape, message",
    [
        (PROMPT, (2, 4), f"does not have, first '{PROMPT}'"),
        ("prompt_learner.deep.0", None, "lacks 1 of the 2 learned tensors, first 'prompt_learner.deep.0'.*depth"),
        ("prompt_learner.deep.1", (2, 4), "does not have, first 'prompt_learner.deep.1'.*depth"),
        ("prompt_learner.ctx", (3, 4), r"of shape \(3, 4\), this model needs \(2, 4\)"),
    ],
)
def test_refused_and_left_alone(model, name, shape, message):
    state, before = whole_model(), {key: tensor.clone() for key, tensor in learned_state(model).items()}
    assert list(before) == ["prompt_learner.ctx", "prompt_learner.deep.0"]  # and not the frozen weights
    state.pop(name, None)
    if shape:
        state[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message) as error:
        load_learned(model, state, "run/model.pth.tar-5")
    assert "run/model.pth.tar-5" in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in learned_state(model).items())


# ---- reading files

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])


def write(path, zipped=True, **content):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return str(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("schedule", ["CosineAnnealingLR", "OneCycleLR"])
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RAdam"])
@FORMATS
def test_tensors_are_read_past_pickled_optimizers_and_schedules(tmp_path, kind, schedule, zipped):
    net = nn.Linear(2, 1)
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.1)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"a.half": torch.randn(3).half(), "b": nn.Parameter(torch.randn(2, 2)), "n": torch.tensor(7)}
    arguments = (5.0,) if schedule == "CosineAnnealingLR" else (0.1, 5)
    schedules = {"successor": getattr(torch.optim.lr_scheduler, schedule)(optimizer, *arguments)}
    path = write(tmp_path / "old.tar", zipped, state_dict=state, epoch=5, scheduler=schedules)
    with pytest.raises(Exception, match="[Ww]eights"):
        torch.load(path, weights_only=True)
    known = set(torch.serialization.get_safe_globals())
    read = read_state_dict(path)
    assert list(read) == list(state)
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items())
    assert set(torch.serialization.get_safe_globals()) == known


class Unknown:
    pass


@FORMATS
def test_files_with_other_objects_are_refused(tmp_path, zipped):
    """Those that bring code: tests/test_hostile_files.py."""
    for thing, name in ((Unknown(), "Unknown"), (nn.ReLU(), "nn.*ReLU")):
        path = write(tmp_path / "bad.tar", zipped, state_dict={"a": torch.ones(1)}, scheduler=thing)
        known = set(torch.serialization.get_safe_globals())
        words = f'Unable to load checkpoint from ".*bad.tar": .*never read: .*{name}'
        with pytest.raises(ValueError, match=words) as error:
            read_state_dict(path)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
        assert set(torch.serialization.get_safe_globals()) == known


STRANGE = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse, quantized or nested": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.quint8),
    "tensor without values": lambda: torch.eye(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "repeats its values": lambda: torch.zeros(1).expand(10**6, 10**7),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_that_are_not_dense_or_not_in_the_file_are_refused(tmp_path, kind):
    path = write(tmp_path / "odd.tar", state_dict={"ctx": STRANGE[kind]()}, epoch=1)
    for read in (read_state_dict, load_checkpoint):
        with pytest.raises(ValueError, match=f"odd.tar.*state_dict.ctx is a .*{kind}") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_small_views_and_lists_that_occur_often_are_read_at_once(tmp_path):
    shared, view = [1.0], torch.arange(4.0).expand(2, 4)
    for _ in range(40):
        shared = [shared, shared]  # 2^40 leaves if each is visited
    path = write(tmp_path / "a.tar", state_dict={"ctx": view}, epoch=1, other=shared)
    for state in (read_state_dict(path), load_checkpoint(path)["state_dict"]):
        assert torch.equal(state["ctx"], view)


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*nothing.tar"):
        read_state_dict(tmp_path / "nothing.tar")
    with pytest.raises(ValueError, match="is no checkpoint of a run: it holds epoch, optimizer"):
        read_state_dict(write(tmp_path / "other.tar", epoch=1, optimizer={}))
    for state, kind in ((None, "NoneType"), ({"a": 3}, "int"), ([torch.ones(2)], "list"), ({"a": {"b": 1}}, "dict")):
        with pytest.raises(ValueError, match=f"odd.tar is no checkpoint of a run: its state_dict holds {kind}, not"):
            read_state_dict(write(tmp_path / "odd.tar", state_dict=state))
    (tmp_path / "half.tar").write_bytes((tmp_path / "other.tar").read_bytes()[:-40])
    (tmp_path / "empty.tar").write_bytes(b"")
    old = write(tmp_path / "whole.tar", zipped=False, state_dict={"a": torch.ones(3)})
    (tmp_path / "old.tar").write_bytes(Path(old).read_bytes()[:-8])
    for name in ("half", "empty", "old"):
        with pytest.raises(ValueError, match=f"Unable to load checkpoint.*{name}.tar.*damaged"):
            read_state_dict(tmp_path / f"{name}.tar")
