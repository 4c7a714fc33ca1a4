"""Parts of open_clip's residual attention block, so that a tower can skip work that no output depends on.

The modules and weights of a block stay unmodified. The towers call a block of another class, or one with hooks, as a
whole.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from open_clip.transformer import LayerScale, QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

MAX_COMPILED = 64  # limit of compiled versions per function
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_QUICK_GELU = 1.702  # QuickGELU(h) = h * sigmoid(1.702 h)


def can_split(transformer: Any) -> bool:
    """Return whether all blocks of a transformer are open_clip's standard block with torch's attention, without hooks,
    so that their parts can be called one by one."""
    return all(_can_split(block) for block in transformer.resblocks)


def _can_split(block: Any) -> bool:
    attn: Any = getattr(block, "attn", None)
    kinds = ((block, ResidualAttentionBlock, ("forward", "attention")), (attn, nn.MultiheadAttention, ("forward",)))
    for module, kind, names in kinds:  # or a subclass that overrides neither, as torch.export makes them
        if any(getattr(type(module), name, None) is not getattr(kind, name) for name in names):
            return False
    if attn.in_proj_weight is None or attn.in_proj_bias is None or attn.bias_k is not None or attn.add_zero_attn:
        return False
    # These modules are bypassed, or their output is overwritten: their hooks would not run, or would see wrong values.
    bypassed = (block, attn, attn.out_proj, block.ls_1, block.ls_2, block.mlp, *block.mlp)
    hooked = any(getattr(module, name, None) for module in bypassed for name in _HOOKS)
    return not hooked and not hasattr(block, "ln_1_kv") and not (attn.dropout and attn.training)


def project_in(block: Any, x: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Apply the first norm of a block to x (..., length, d) and project.

    Returns:
        Queries of the leading ``queries`` positions (..., queries, d), keys and values (..., length, d); heads are
        concatenated.
    """
    weight, bias, d = block.attn.in_proj_weight, block.attn.in_proj_bias, x.shape[-1]
    y = block.ln_1(x)
    k, v = F.linear(y, weight[d:], bias[d:]).chunk(2, -1)
    return F.linear(y[..., :queries, :], weight[:d], bias[:d]), k, v


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Return multi-head attention, softmax(q k' / sqrt(d / heads)) v, (batch, Q, d), with concatenated heads.

    q is (batch, Q, d), k and v (batch, length, d); the bool mask (Q, length) is True where a query may attend.
    """
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (batch, heads, length, d_head)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Apply a block after its attention: output projection, MLP and both residual connections.

    Inputs x of the block, attention outputs at the same positions, and the result are (..., d).
    """
    x = x + block.ls_1(block.attn.out_proj(attended))
    y, mlp = block.ln_2(x), block.mlp
    linear = all(type(layer) is nn.Linear and layer.bias is not None for layer in (mlp.c_fc, mlp.c_proj))
    if not linear or type(mlp.gelu) is not QuickGELU or type(block.ls_2) not in (nn.Identity, LayerScale):
        return x + block.ls_2(mlp(y))
    # QuickGELU(h) = silu(s h) / s with s = 1.702. The scales go into the matrix product that makes h and into the
    # residual sum, which saves two passes over the hidden layer, and autograd keeps one hidden layer instead of two.
    h = torch.addmm(mlp.c_fc.bias * _QUICK_GELU, y.flatten(0, -2), mlp.c_fc.weight.T, alpha=_QUICK_GELU)
    h = F.silu(h, inplace=not torch.is_grad_enabled())
    y = F.linear(h, mlp.c_proj.weight, mlp.c_proj.bias * _QUICK_GELU).view(x.shape)
    return torch.add(x, block.ls_2(y), alpha=1 / _QUICK_GELU)


class BlockFunctions(NamedTuple):
    """The two parts of a block around its attention, eager or compiled."""

    project_in: Callable[..., tuple[Tensor, Tensor, Tensor]] = project_in
    finish: Callable[..., Tensor] = finish


def compile_functions(backend: str | Callable = "inductor") -> BlockFunctions:
    """Return the block functions under ``torch.compile``, for all blocks of both towers, with dynamic shapes, so that
    class counts may vary; ``backend`` is torch's."""
    # Both towers, with and without gradients, for all positions and for CLS only, compile versions of one function;
    # beyond the limit of versions torch would silently fall back to eager execution.
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, limit, max(getattr(torch._dynamo.config, limit), MAX_COMPILED))
    compiled: Any = [torch.compile(function, backend=backend, dynamic=True) for function in (project_in, finish)]
    return BlockFunctions(*compiled)


def maybe_recompute(condition: bool, function: Callable[..., T], *inputs: Any) -> T:
    """Return ``function(*inputs)``; if ``condition``, its activations are recomputed in the backward pass."""
    if condition and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)


def check_shape(name: str, value: Tensor, allowed: list[tuple[int, ...]]) -> None:
    """Raise ``ValueError`` unless ``value`` has one of the allowed shapes, in which -1 stands for any size from 1."""
    for shape in allowed:
        if value.dim() == len(shape) and all(s in (-1, v) and v > 0 for v, s in zip(value.shape, shape)):
            return
    listed = " or ".join(str(tuple("any" if s == -1 else s for s in shape)).replace("'", "") for shape in allowed)
    raise ValueError(f"{name} has shape {tuple(value.shape)}; allowed: {listed}")


def check_prompts(
    kind: str, first: Tensor | None, deep: Sequence[Tensor | None], layers: int, sizes: tuple[int, int, int]
) -> None:
    """Raise ``ValueError`` unless prompts fit a tower.

    The first block takes (any, length, width), or for text (any, K, length, width), ``sizes`` being K, length and
    width; at most layers - 1 next blocks take prompts of this length or shorter.
    """
    if len(deep) > layers - 1:
        raise ValueError(f"deep prompts for {len(deep)} blocks; a tower of {layers} blocks takes at most {layers - 1}")
    classes, length, width = sizes
    for name, vectors in ((f"{kind} prompt", first), *((f"deep {kind} prompt {i}", v) for i, v in enumerate(deep))):
        if vectors is not None:
            b = length if vectors is first or vectors.dim() < 2 else min(length, vectors.shape[-2])
            check_shape(name, vectors, [(-1, b, width), *([(-1, classes, b, width)] if kind == "text" else [])])


def check_inserted(vectors: Sequence[Tensor | None], block: int, length: int) -> None:
    """Raise ``ValueError`` unless the first entry of ``vectors`` that is not None is that of ``block`` (one entry per
    block), with ``length`` vectors. For block 0 nothing is checked."""
    found = [(i, vector.shape[-2]) for i, vector in enumerate(vectors) if vector is not None][:1]
    if block and found != [(block, length)]:
        text = f"{found[0][1]} vectors for block {found[0][0]}" if found else "no vectors"
        raise ValueError(f"insert_at {block} needs {length} vectors for this block and none before; found {text}")


def common_number(name: str, sizes: list[int]) -> int:
    """Return the size that ``sizes`` broadcast to; raise ``ValueError`` if they do not. ``name`` is for the message."""
    found = {size for size in sizes if size != 1}
    if len(found) > 1:
        raise ValueError(f"{name} prompts disagree in number: found {sorted(found)}; all must be equal, or 1")
    return found.pop() if found else 1


def project_out(x: Tensor, projection: nn.Linear | Tensor | None) -> Tensor:
    """Map the outputs of a tower (..., d) to the joint embedding (..., D)."""
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


class Frozen(nn.Module):
    """A module that stays in evaluation mode, so that ``train()`` does not enable BatchNorm updates or dropout."""

    def train(self, mode: bool = True) -> "Frozen":  # noqa: ARG002 - the signature is torch's
        return super().train(False)
