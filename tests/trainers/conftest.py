"""Fixtures of the trainers' tests: the golden CLIP as a file, and configs in a few words."""

import json
from pathlib import Path

import pytest
import torch

from prompting.clip import load_clip
from tests.golden import recipe
from tests.reference.configs import default_cfg

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def write_state(path, state):
    torch.save({name: torch.as_tensor(value) for name, value in state.items()}, path)
    return str(path)


@pytest.fixture(scope="session")
def golden_clip_file(tmp_path_factory):
    """The random CLIP of the golden files, as a state dict in OpenAI's key names."""
    return write_state(tmp_path_factory.mktemp("clip") / "golden.pt", recipe.clip_state(1))


@pytest.fixture(scope="session")
def golden_resnet(tmp_path_factory):
    return load_clip(write_state(tmp_path_factory.mktemp("clip") / "resnet.pt", recipe.resnet_state(1)))


@pytest.fixture(scope="session")
def golden_clip(golden_clip_file):
    return load_clip(golden_clip_file)


@pytest.fixture
def make_cfg():
    """Return a function that makes a config from KEY, VALUE words."""
    return default_cfg


def read_golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())
