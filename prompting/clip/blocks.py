"""open_clip's residual attention block, taken apart: keys and values here, attention there, nothing computed twice.

The block's modules and weights are used as they are; only who calls them changes. A block of another make, or one that
carries hooks, is not taken apart: the towers then run it whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prompting.clip.mlp import Scratch, add_mlp, hooked, plus

VERSIONS = 64  # of a compiled function that torch may keep


def can_split(transformer: Any) -> bool:
    """Say whether every block of a transformer is one whose parts these functions may call.

    Args:
        transformer: a module with ``resblocks``.

    Returns:
        True if all blocks are open_clip's plain ones with torch's own attention, and none carries a hook.
    """
    return all(_can_split(block) for block in transformer.resblocks)


def _can_split(block: Any) -> bool:
    attn = getattr(block, "attn", None)
    if type(block) is not ResidualAttentionBlock or type(attn) is not nn.MultiheadAttention:
        return False
    if attn.in_proj_weight is None or attn.bias_k is not None or attn.add_zero_attn or hasattr(block, "ln_1_kv"):
        return False
    # A hook on a module that is not called as a whole any more would stay silent; one on a module whose output is
    # written over might keep that.
    seen = (block, attn, attn.out_proj, block.ls_1, block.ls_2, block.mlp, *block.mlp)
    return not (attn.dropout and attn.training) and not any(map(hooked, seen))


def ask(block: Any, x: Tensor) -> Tensor:
    """Return the queries (..., length, d) of a block's inputs x (..., length, d), heads side by side."""
    weight, bias, d = block.attn.in_proj_weight, block.attn.in_proj_bias, x.shape[-1]
    return F.linear(block.ln_1(x), weight[:d], None if bias is None else bias[:d])


def project_in(block: Any, x: Tensor, queries: int | None = None) -> tuple[Tensor, ...]:
    """Return what attention needs of the inputs of a block: queries, keys and values, heads side by side.

    Args:
        block: a block that ``can_split``.
        x: (..., length, d) inputs.
        queries: how many of the leading positions ask; None is all of them.

    Returns:
        Queries (..., queries, d), keys and values (..., length, d).
    """
    attn, d = block.attn, x.shape[-1]
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    y = block.ln_1(x)
    if queries is None:
        return F.linear(y, weight, bias).chunk(3, -1)
    q_bias, kv_bias = (None, None) if bias is None else (bias[:d], bias[d:])
    return F.linear(y[..., :queries, :], weight[:d], q_bias), *F.linear(y, weight[d:], kv_bias).chunk(2, -1)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """Fused attention: softmax(q k' / sqrt(d / heads)) v.

    Args:
        q: (batch, Q, d), heads side by side.
        k, v: (batch, length, d).
        heads: number of heads.
        mask: bool, broadcastable to (batch, heads, Q, length), True = may be seen. None: all, or ``causal``.
        causal: position i sees the positions up to i.

    Returns:
        (batch, Q, d), heads side by side.
    """
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (batch, heads, length, d_head)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2).flatten(2)


def finish(block: Any, x: Tensor, attended: Tensor, lean: bool = False, scratch: Scratch | None = None) -> Tensor:
    """Return a block's outputs at the positions whose inputs are x and whose attention is given.

    Args:
        block: a block that ``can_split``.
        x: (..., d) inputs.
        attended: (..., d), as ``attend`` returns it.
        lean, scratch: as for ``add_mlp``.

    Returns:
        (..., d).
    """
    return add_mlp(block, plus(x, block.ls_1(block.attn.out_proj(attended))), lean, scratch)


class Steps(NamedTuple):
    """The two halves of a block around its attention, as they are or compiled."""

    project_in: Callable[..., tuple[Tensor, ...]] = project_in
    finish: Callable[..., Tensor] = finish


def compiled_steps(backend: str | Callable = "inductor") -> Steps:
    """Return the steps under ``torch.compile`` with every size left open, so that class counts may vary.

    Args:
        backend: as for ``torch.compile``.

    Returns:
        Compiled steps, shared by all blocks of both towers.
    """
    # Both towers, with and without a gradient, whole and at CLS alone, are so many versions of one function; beyond its
    # limit torch would leave the rest uncompiled without a word.
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, limit, max(getattr(torch._dynamo.config, limit), VERSIONS))
    return Steps(
        torch.compile(project_in, backend=backend, dynamic=True), torch.compile(finish, backend=backend, dynamic=True)
    )


def run_whole(
    transformer: Any, x: Tensor, mask: Tensor | None, before: Callable[[int, Tensor], Tensor], n_deep: int
) -> Tensor:
    """Run a transformer's blocks whole, whatever they are.

    Args:
        transformer: a module with ``resblocks``.
        x: (batch, length, d).
        mask: added to the attention scores, (length, length), or None.
        before: called as ``before(i, x)`` ahead of block i + 1, for the first ``n_deep`` of those.
        n_deep: number of blocks after the first that get prompts of their own.

    Returns:
        (batch, length, d).
    """
    # open_clip releases before 2.26 have no such flag and run length-first.
    batch_first = getattr(transformer, "batch_first", False)
    for i, block in enumerate(transformer.resblocks):
        if 0 < i <= n_deep:
            x = before(i - 1, x)
        y = x if batch_first else x.transpose(0, 1)
        y = recomputed(transformer, partial(block, attn_mask=mask), y)
        x = y if batch_first else y.transpose(0, 1)
    return x


def recomputed(transformer: Any, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``function(x)``, recomputed in the backward pass where the transformer asks for checkpointing."""
    if getattr(transformer, "grad_checkpointing", False) and torch.is_grad_enabled():
        return checkpoint(function, x, use_reentrant=False)
    return function(x)


def check_shape(name: str, value: Tensor, allowed: list[tuple[int, ...]]) -> None:
    """Raise ``ValueError`` unless ``value`` has one of the allowed shapes, in which -1 is any number above 0."""
    for shape in allowed:
        if value.dim() == len(shape) and all(s in (-1, v) and v > 0 for v, s in zip(value.shape, shape)):
            return
    listed = " or ".join(str(tuple("any" if s == -1 else s for s in shape)).replace("'", "") for shape in allowed)
    raise ValueError(f"{name} has shape {tuple(value.shape)}; allowed: {listed}")


def check_deep(deep: int, layers: int) -> None:
    """Raise ``ValueError`` if deep prompts are given for more blocks than follow the first."""
    if deep > layers - 1:
        raise ValueError(f"deep prompts for {deep} blocks; a tower of {layers} blocks takes at most {layers - 1}")


def common_number(name: str, sizes: list[int]) -> int:
    """Return the number of prompts that all of ``sizes`` share; 1 broadcasts. Raises ``ValueError`` if they do not."""
    found = {size for size in sizes if size != 1}
    if len(found) > 1:
        raise ValueError(f"{name} prompts disagree in number: found {sorted(found)}; all must be equal, or 1")
    return found.pop() if found else 1


def project_out(x: Tensor, projection: nn.Linear | Tensor | None) -> Tensor:
    """Map a tower's output (..., d) to the joint embedding (..., D)."""
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def nothing() -> None:
    """Do nothing."""


def on_both_passes(x: Tensor, call: Callable[[], None]) -> None:
    """Where x carries a gradient, call now and when the backward pass comes to x."""
    if x.requires_grad and call is not nothing:

        def hook(_: Tensor) -> None:
            call()

        call()
        x.register_hook(hook)


class Frozen(nn.Module):
    """A module that never leaves evaluation mode: BatchNorm and dropout of a frozen tower must not wake up."""

    def train(self, mode: bool = True) -> Frozen:  # noqa: ARG002 - the signature is torch's
        return super().train(False)
