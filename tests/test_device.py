"""``train.py --device``: the device a run uses, and one line where it does not exist."""

from __future__ import annotations

import pytest
import torch

import train


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that pretends some GPUs; what is chosen comes in the list it returns."""

    def pretend(number):
        chosen = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return pretend


def config(*words):
    return train.setup_cfg(train.parse_args(list(words)))


@pytest.mark.parametrize(
    "name, uses_gpu, chosen",
    [("cpu", False, []), ("cuda", True, []), ("cuda:0", True, ["cuda:0"]), ("cuda:1", True, ["cuda:1"])],
)
def test_devices_that_are_there(name, uses_gpu, chosen, gpus):
    asked = gpus(2)
    assert config("--device", name).USE_CUDA is uses_gpu
    assert asked == chosen


def test_without_the_flag_the_config_decides():
    assert config().USE_CUDA is True and config("USE_CUDA", "False").USE_CUDA is False


@pytest.mark.parametrize(
    "name, number, allowed",
    [("cuda", 0, "cpu$"), ("cuda:2", 2, "cpu, cuda, cuda:0, cuda:1$"), ("gpu", 1, "cpu, cuda, cuda:0$")],
)
def test_devices_that_are_not(name, number, allowed, gpus):
    gpus(number)
    with pytest.raises(ValueError, match=f"there is no device '{name}'; allowed for --device here: {allowed}"):
        config("--device", name)
