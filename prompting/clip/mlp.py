"""The MLP of open_clip's residual block: QuickGELU's factors for nothing, its widest tensors in memory that all blocks
share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerNorm, LayerScale, QuickGELU
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

_SLOPE = 1.702  # of CLIP's QuickGELU, x * sigmoid(1.702 x)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Scratch:
    """Working memory that the blocks of a tower share in both passes: nothing stays in it from one block to the next.
    Blocks that each took and freed their own would leave holes that no later tensor fits.
    """

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Scratch:
        return Scratch()

    def __getstate__(self) -> dict[str, Any]:
        return {"_held": {}}

    def clear(self) -> None:
        """Give the memory back; whoever needs it takes it anew."""
        self._held.clear()

    def take(self, which: int, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return the memory number ``which`` as (rows, columns), whatever is in it."""
        held = self._held.pop(which, None)
        if held is None or held.numel() < rows * columns or (held.dtype, held.device) != (like.dtype, like.device):
            held = None  # before the larger one is there
            held = like.new_empty(rows * columns)
        self._held[which] = held
        return held[: rows * columns].view(rows, columns)


def add_mlp(block: Any, x: Tensor, lean: bool = False, scratch: Scratch | None = None) -> Tensor:
    """Return x + MLP(norm(x)) of a block.

    Args:
        block: a block that ``can_split``.
        x: (..., d).
        lean: keep no hidden layer for the backward pass, which computes it again.
        scratch: of the tower's pass; None where blocks take memory of their own.

    Returns:
        (..., d).
    """
    if scratch is not None and _shares(block, x):
        return _SharedMlp.apply(x, block, lean, scratch)
    if lean and torch.is_grad_enabled():
        return checkpoint(_add_mlp, block, x, use_reentrant=False)
    return _add_mlp(block, x)


def _add_mlp(block: Any, x: Tensor) -> Tensor:
    y, mlp = block.ln_2(x), block.mlp
    if not _is_plain(block):
        return x + block.ls_2(mlp(y))
    # With h the hidden layer, h sigmoid(1.702 h) is silu(1.702 h) / 1.702. The first factor goes into the product that
    # makes h, the second into the sum that follows, so that neither is a pass over the widest tensors of a block.
    h = F.silu(_hidden(mlp, y.flatten(0, -2)), inplace=not torch.is_grad_enabled())
    h = F.linear(h, mlp.c_proj.weight, mlp.c_proj.bias * _SLOPE)
    return plus(x, block.ls_2(h.view(x.shape)), 1 / _SLOPE)


def _hidden(mlp: Any, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Return 1.702 h (rows, 4 d) of the normed inputs y (rows, d)."""
    linear = mlp.c_fc
    return torch.addmm(linear.bias * _SLOPE, y, linear.weight.T, alpha=_SLOPE, out=out)


def _is_plain(block: Any) -> bool:
    """Say whether a block's MLP is two linear maps around CLIP's QuickGELU, and what scales it is linear, too."""
    mlp = block.mlp
    if type(block.ls_2) not in (nn.Identity, LayerScale):
        return False
    linear = all(type(part) is nn.Linear and part.bias is not None for part in (mlp.c_fc, mlp.c_proj))
    return type(mlp.gelu) is QuickGELU and linear


def _shares(block: Any, x: Tensor) -> bool:
    """Say whether a block's MLP is one whose backward pass ``_SharedMlp`` writes out: frozen, in one precision."""
    if not (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling():
        return False
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return False
    if not _is_plain(block) or type(block.ls_2) is not nn.Identity:
        return False
    if type(block.ln_2) not in (LayerNorm, nn.LayerNorm) or block.ln_2.weight is None or hooked(block.ln_2):
        return False
    weights = (*block.ln_2.parameters(), *block.mlp.parameters())
    return all(not weight.requires_grad and weight.dtype == x.dtype for weight in weights)


class _SharedMlp(torch.autograd.Function):
    """``_add_mlp`` of a frozen block, with its gradient: x -> x + W2 silu(1.702 (W1 norm(x) + b1)) / 1.702 + b2.

    It has a first derivative alone, and none in forward mode; an encoder with ``plain`` set has them all.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Any, lean: bool, scratch: Scratch) -> Tensor:
        rows, mlp, out = x.flatten(0, -2), block.mlp, block.mlp.c_proj
        y, mean, scale = _norm(block.ln_2, rows)
        wide, narrow = mlp.c_fc.weight.shape
        h = _hidden(mlp, y, scratch.take(0, len(rows), wide, x) if lean else x.new_empty(len(rows), wide))
        active = h if lean else scratch.take(0, len(rows), wide, x)
        torch.ops.aten.silu.out(h, out=active)
        y = torch.addmm(out.bias * _SLOPE, active, out.weight.T, out=y)
        ctx.save_for_backward(x, *(() if lean else (h, mean, scale)))
        ctx.block, ctx.scratch = block, scratch
        return torch.add(rows, y, alpha=1 / _SLOPE, out=y).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        # First of all: under checkpointing this runs blocks forward, which write into the same working memory.
        x, *kept = ctx.saved_tensors
        rows, norm, mlp, scratch = x.flatten(0, -2), ctx.block.ln_2, ctx.block.mlp, ctx.scratch
        wide = mlp.c_fc.weight.shape[0]
        if kept:
            h, mean, scale = kept
        else:
            y, mean, scale = _norm(norm, rows)
            h = _hidden(mlp, y, scratch.take(0, len(rows), wide, x))
        above = upstream.reshape(rows.shape)
        slope = torch.mm(above, mlp.c_proj.weight, out=scratch.take(1, len(rows), wide, x))
        torch.ops.aten.silu_backward.grad_input(slope, h, grad_input=slope)
        shape, only_input = list(norm.normalized_shape), [True, False, False]
        inner = torch.mm(slope, mlp.c_fc.weight, out=torch.empty_like(rows))  # ``out``: whatever autocast says
        below = torch.ops.aten.native_layer_norm_backward(
            inner, rows, shape, mean, scale, norm.weight, norm.bias, only_input
        )[0]
        return below.add_(above).view(x.shape), None, None, None


def _norm(norm: nn.LayerNorm, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normed rows, their means and the reciprocals of their standard deviations."""
    return torch.native_layer_norm(rows, list(norm.normalized_shape), norm.weight, norm.bias, norm.eps)


def hooked(module: nn.Module) -> bool:
    """Say whether a module carries a hook, which stays silent if the module is not called."""
    return any(getattr(module, name, None) for name in _HOOKS)


def plus(x: Tensor, y: Tensor, share: float = 1.0) -> Tensor:
    """Return x + share * y; where nothing is recorded in the memory of y, which the caller gives up."""
    if torch.is_grad_enabled() or x.dtype != y.dtype:
        return torch.add(x, y, alpha=share)
    return torch.add(x, y, alpha=share, out=y)
