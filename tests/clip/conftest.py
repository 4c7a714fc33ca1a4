"""Small random CLIPs of both kinds, in float64 so that comparisons can be tight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from tests.reference.clip_states import resnet_state, vit_state


def _double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in state.items()}


@pytest.fixture(scope="session")
def vit_weights() -> dict[str, Tensor]:
    return vit_state()


@pytest.fixture(scope="session")
def resnet_weights() -> dict[str, Tensor]:
    return resnet_state()


@pytest.fixture(scope="session")
def vit64(vit_weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return _double(vit_weights)


@pytest.fixture(scope="session")
def resnet64(resnet_weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return _double(resnet_weights)


@pytest.fixture
def vit(vit_weights: dict[str, Tensor]) -> nn.Module:
    return load_clip(build_clip(vit_weights, "a drawn ViT")).double()


@pytest.fixture
def resnet(resnet_weights: dict[str, Tensor]) -> nn.Module:
    return load_clip(build_clip(resnet_weights, "a drawn ResNet")).double()


@pytest.fixture
def stream() -> torch.Generator:
    return torch.Generator().manual_seed(7)
