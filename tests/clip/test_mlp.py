"""The blocks' MLP in shared memory: outputs and gradients are those of open_clip's own modules."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from open_clip.transformer import LayerScale
from torch import Tensor, nn

from prompting.clip import VisionEncoder
from prompting.clip.mlp import Scratch, add_mlp
from tests.reference.saved import saved_bytes

TIGHT = {"atol": 1e-12, "rtol": 1e-10}


@pytest.fixture
def blocks(vit: nn.Module) -> list[Any]:
    made = copy.deepcopy(vit).requires_grad_(False).visual.transformer.resblocks
    for block in made:
        for weight in block.parameters():  # biases start at zero, scales at one
            weight.copy_(weight + 0.1 * torch.randn(weight.shape, dtype=weight.dtype))
    return list(made)


def own(block: Any, x: Tensor) -> Tensor:
    """What open_clip's block adds behind its attention."""
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def run(blocks: list[Any], x: Tensor, rows: slice, **how: Any) -> list[Tensor]:
    """Outputs and gradient of some rows through several MLPs, one after another."""
    x = x.clone().requires_grad_()
    y = x[:, rows]
    for block in blocks:
        y = add_mlp(block, y, **how) if how else own(block, y)
    (gradient,) = torch.autograd.grad((y * torch.arange(y.numel()).view(y.shape).cos()).sum(), x)
    return [y.detach(), gradient]


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1), slice(1, 4)])
def test_blocks_that_share_memory_are_exact(blocks: list[Any], lean: bool, rows: slice) -> None:
    x, scratch = torch.randn(3, 5, blocks[0].ln_2.normalized_shape[0], dtype=torch.float64), Scratch()
    assert len(blocks) > 1
    for part in (x, x[:1], torch.cat([x, x])):  # memory of other sizes before
        found = run(blocks, part, rows, lean=lean, scratch=scratch)
        torch.testing.assert_close(found, run(blocks, part, rows), **TIGHT)


def test_it_is_the_shared_one(blocks: list[Any]) -> None:
    """Its node is in the graph; it keeps what the plain one keeps, or, lean, its input alone."""
    x = torch.randn(2, 5, blocks[0].ln_2.normalized_shape[0], dtype=torch.float64).requires_grad_()
    assert "Shared" in add_mlp(blocks[0], x, scratch=Scratch()).grad_fn.name()
    kept = [
        saved_bytes(lambda how=how: add_mlp(blocks[0], x * 1.0, **how))
        for how in ({"scratch": None}, {"scratch": Scratch()}, {"lean": True, "scratch": Scratch()})
    ]
    size = x.numel() * x.element_size()
    assert kept[1] <= kept[0] and kept[2] == size and kept[1] == pytest.approx(5 * size, rel=0.05)


def test_a_graph_is_gone_through_twice_and_in_any_order(blocks: list[Any]) -> None:
    width, scratch = blocks[0].ln_2.normalized_shape[0], Scratch()
    xs = [torch.randn(2, n, width, dtype=torch.float64, requires_grad=True) for n in (3, 6)]
    ys = [add_mlp(blocks[0], x, lean, scratch) for x, lean in zip(xs, (True, False))]
    expected = [torch.autograd.grad(own(blocks[0], x).sin().sum(), x)[0] for x in xs]
    for i in (0, 1, 0, 1):
        (found,) = torch.autograd.grad(ys[i].sin().sum(), xs[i], retain_graph=True)
        torch.testing.assert_close(found, expected[i], **TIGHT)


def test_gradients_of_weights_and_hooks_are_kept(blocks: list[Any]) -> None:
    """A tower that is trained, or looked at, goes without."""
    block, seen = blocks[0], []
    x = torch.randn(2, 5, block.ln_2.normalized_shape[0], dtype=torch.float64).requires_grad_()
    block.mlp.c_fc.weight.requires_grad_()
    add_mlp(block, x, scratch=Scratch()).sin().sum().backward()
    found, block.mlp.c_fc.weight.grad = block.mlp.c_fc.weight.grad, None
    own(block, x).sin().sum().backward()
    torch.testing.assert_close(found, block.mlp.c_fc.weight.grad, **TIGHT)
    block.mlp.c_fc.weight.requires_grad_(False)
    block.ln_2.register_forward_hook(lambda *_: seen.append(1))
    add_mlp(block, x, scratch=Scratch())
    assert seen == [1]


def test_upstream_gradients_in_any_layout(blocks: list[Any]) -> None:
    x = torch.randn(2, 5, blocks[0].ln_2.normalized_shape[0], dtype=torch.float64).requires_grad_()
    weights = torch.randn(x.shape[2], 5, 2, dtype=torch.float64)
    for pull in (torch.sum, lambda y: (y.permute(2, 1, 0) * weights).sum()):
        found, expected = (
            torch.autograd.grad(pull(f(blocks[0], x)), x)[0] for f in (lambda b, x: add_mlp(b, x, True, Scratch()), own)
        )
        torch.testing.assert_close(found, expected, **TIGHT)


@pytest.mark.parametrize("lean", [False, True])
def test_autocast_is_left_alone(blocks: list[Any], lean: bool) -> None:
    """Under it the plain path runs in half precision; what was recorded outside stays as it is inside."""
    block = blocks[0].float()
    x = torch.randn(2, 5, block.ln_2.normalized_shape[0]).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = [f(x) for f in (lambda x: add_mlp(block, x, lean, Scratch()), lambda x: own(block, x))]
    assert "Shared" not in results[0].grad_fn.name()
    torch.testing.assert_close(*results, atol=0.05, rtol=0.05)
    out = add_mlp(block, x, lean, Scratch()).sin().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(out, x)
    expected = torch.autograd.grad(own(block, x).sin().sum(), x)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)  # bfloat16 would be off by 1e-2


def test_other_blocks_go_without(blocks: list[Any]) -> None:
    first, second = blocks[:2]
    first.mlp.gelu = nn.GELU()
    second.ls_2 = LayerScale(second.ln_2.normalized_shape[0], init_values=0.3).double()
    for block in (first, second):
        x = torch.randn(2, 5, block.ln_2.normalized_shape[0], dtype=torch.float64).requires_grad_()
        out = add_mlp(block, x, scratch=Scratch())
        assert "Shared" not in out.grad_fn.name()
        found, expected = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (out, own(block, x)))
        torch.testing.assert_close(found, expected, **TIGHT)


def test_an_encoder_holds_one_scratch(vit: nn.Module) -> None:
    """However many of its graphs are alive; a copy starts without."""
    encoder, results = VisionEncoder(vit), []
    prompts = torch.randn(2, 2, vit.visual.conv1.out_channels, dtype=torch.float64, requires_grad=True)
    images = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    scratch = encoder._scratch
    outs = [encoder(images[:n], prompts).prompt.sin().sum() for n in (1, 3)]
    for out in outs:
        results.append(torch.autograd.grad(out, prompts)[0])
    assert encoder._scratch is scratch and len(scratch._held) == 2
    for other in (copy.deepcopy(scratch), pickle.loads(pickle.dumps(scratch))):
        assert not other._held
    encoder.plain = True
    for n, found in zip((1, 3), results):
        (expected,) = torch.autograd.grad(encoder(images[:n], prompts).prompt.sin().sum(), prompts)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
