"""The blocks' MLP in shared memory: outputs and gradients are those of open_clip's own modules."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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


def test_other_activations_and_precisions(blocks: list[Any]) -> None:
    block = blocks[0].float()
    x = torch.randn(2, 5, block.ln_2.normalized_shape[0]).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = [f(x) for f in (lambda x: add_mlp(block, x, scratch=Scratch()), lambda x: own(block, x))]
    torch.testing.assert_close(*results, atol=0.05, rtol=0.05)
    block.mlp.gelu = nn.GELU()
    found, expected = (
        torch.autograd.grad(f(block, x).sin().sum(), x)[0] for f in (lambda b, x: add_mlp(b, x, scratch=Scratch()), own)
    )
    torch.testing.assert_close(found, expected)
