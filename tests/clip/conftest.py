"""Small random CLIPs of both kinds in float64, and the comparison of both towers with one prompt at a time."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from prompting.clip import PromptTokens, TextEncoder, VisionEncoder, load_clip
from prompting.clip.formats import build_clip
from tests.reference import clip_naive
from tests.reference.clip_states import resnet_state, vit_state

NAMES = ["cat", "yin_yang", "golden retriever", "Boeing 737-800"]
TIGHT = {"atol": 1e-9, "rtol": 1e-8}
WIDTH = 64  # d_l of the random CLIP; its d_v is twice that
Values = Sequence[Tensor | None]


@pytest.fixture(scope="session")
def vit_weights():
    return vit_state()


@pytest.fixture(scope="session")
def resnet_weights():
    return resnet_state()


@pytest.fixture
def vit(vit_weights):
    return load_clip(build_clip(vit_weights, "a random ViT")).double()


@pytest.fixture
def resnet(resnet_weights):
    return load_clip(build_clip(resnet_weights, "a random ResNet")).double()


@pytest.fixture
def stream():
    return torch.Generator().manual_seed(7)


def draw(stream: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


def leaves(values: Values) -> list[Tensor | None]:
    return [None if value is None else value.clone().requires_grad_() for value in values]


def gradients(output: Tensor, values: Values) -> list[Tensor]:
    """Gradients of a fixed random weighting of the outputs."""
    weights = draw(torch.Generator().manual_seed(11), *output.shape)
    learned = [v for v in values if v is not None]
    return list(torch.autograd.grad((output * weights).sum(), learned)) if learned else []


def compare_text(
    model: nn.Module,
    tokens: PromptTokens,
    values: Values = (),
    token_set: Tensor | None = None,
    own_blocks: bool = False,
    **attributes: int | None,
) -> None:
    """Compare outputs and gradients of an encoder, with these attributes set, to one prompt at a time."""
    encoder, mine, theirs = TextEncoder(model), leaves(values or [None]), leaves(values)
    for name, value in attributes.items():
        setattr(encoder, name, value)
    out = encoder(tokens, mine[0], mine[1:], token_set=token_set)
    positions = tokens.ids >= 0 if token_set is None else token_set
    prompt, chosen = clip_naive.all_texts(model, tokens, theirs, positions, own_blocks)
    ours, whole = [out.prompt.flatten()], [prompt.flatten()]
    if token_set is not None:
        sizes = [len(part) for part in chosen]
        assert out.tokens.shape[2] == max(sizes) and (out.mask is None) == (len(set(sizes)) == 1)
        valid = torch.ones(out.tokens.shape[:3], dtype=torch.bool) if out.mask is None else out.mask
        assert valid.sum(-1).flatten().tolist() == sizes
        ours.append(out.tokens[valid].flatten())
        whole.append(torch.cat(chosen).flatten())
    found, expected = torch.cat(ours), torch.cat(whole)
    torch.testing.assert_close(found, expected, **TIGHT)
    torch.testing.assert_close(gradients(found, mine), gradients(expected, theirs), **TIGHT)


def compare_vision(
    model: nn.Module,
    images: Tensor,
    values: Values,
    return_tokens: bool = True,
    own_blocks: bool = False,
    recompute_blocks: int = 0,
) -> None:
    """Compare outputs and gradients of an encoder to one image and prompt at a time."""
    encoder, mine, theirs = VisionEncoder(model), leaves(values or [None]), leaves(values)
    encoder.recompute_blocks = recompute_blocks
    out = encoder(images, mine[0], mine[1:], return_tokens=return_tokens)
    assert (out.tokens is None) == (not return_tokens)
    found = torch.cat([out.prompt.unsqueeze(2), *([out.tokens] if return_tokens else [])], 2)
    expected = clip_naive.all_images(model, images, theirs, own_blocks)[:, :, : None if return_tokens else 1]
    torch.testing.assert_close(found, expected, **TIGHT)
    torch.testing.assert_close(gradients(found, mine), gradients(expected, theirs), **TIGHT)
