"""Adapters: learned functions whose outputs are added inside frozen blocks, or to the embedded input of a tower."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prompting.clip.blocks import BlockFunctions


class BlockAdapter(NamedTuple):
    """Learned additions to one frozen block, each applied to every position independently; None adds nothing.

    With y = ln_1(x) the block computes out_proj(attention(q, k, v)) of projections q, k, v of y, then its MLP.

    Attributes:
        projections: y (..., d) -> additions (..., d) to q, k and v; each may be None.
        attention: attention outputs (..., d), heads concatenated -> an addition (..., d) to their output projection.
        output: y (..., d) -> an addition (..., d) to the output of the block.
    """

    projections: Callable[[Tensor], Sequence[Tensor | None]] | None = None
    attention: Callable[[Tensor], Tensor] | None = None
    output: Callable[[Tensor], Tensor] | None = None


def adapt(functions: BlockFunctions, adapter: BlockAdapter | None) -> BlockFunctions:
    """Return the functions of a block with its adapter; unchanged without one."""
    if adapter is None:
        return functions
    projections, attention, output = adapter

    def adapted_project_in(block: Any, x: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = functions.project_in(block, x, queries)
        if projections is None:
            return q, k, v
        dq, dk, dv = projections(block.ln_1(x))
        return _add(q, None if dq is None else dq[..., :queries, :]), _add(k, dk), _add(v, dv)

    def adapted_finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
        inner = x if attention is None else _add(x, block.ls_1(attention(attended)))
        y = functions.finish(block, inner, attended)
        return y if output is None else _add(y, output(block.ln_1(x)))

    return BlockFunctions(adapted_project_in, adapted_finish)


def adapt_input(x: Tensor, adapter: BlockAdapter | None) -> Tensor:
    """Return x + output(x) for the embedded input x (..., d) of a tower; x without an adapter."""
    return x if adapter is None or adapter.output is None else _add(x, adapter.output(x))


def whole_block(
    transformer: Any, block: Any, x: Tensor, mask: Tensor | None = None, adapter: BlockAdapter | None = None
) -> Tensor:
    """Return the outputs of a block of any class, with its adapter, for x (batch, length, d); ``mask`` (length, length)
    is True where a position may attend.

    Raises:
        ValueError: an adapter inside the attention.
    """
    if adapter is not None and (adapter.projections or adapter.attention):
        raise ValueError("adapters inside the attention need open_clip's standard blocks, without hooks")
    if mask is not None:  # open_clip's blocks add their mask to the attention scores
        mask = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill_(~mask, float("-inf"))
    if getattr(transformer, "batch_first", False):
        y = block(x, attn_mask=mask)
    else:  # open_clip before 2.26, or batch_first off
        y = block(x.transpose(0, 1), attn_mask=mask).transpose(0, 1)
    return y if adapter is None or adapter.output is None else _add(y, adapter.output(block.ln_1(x)))


def pad_adapters(adapters: Sequence[BlockAdapter | None], layers: int) -> list[BlockAdapter | None]:
    """Return ``adapters`` padded with None to the input and all blocks; raise ``ValueError`` if there are more."""
    if len(adapters) > layers + 1:
        raise ValueError(f"{len(adapters)} adapters; allowed: at most {layers + 1}, for the input and {layers} blocks")
    return [*adapters, *[None] * (layers + 1 - len(adapters))]


def _add(x: Tensor, change: Tensor | None) -> Tensor:
    return x if change is None else x + change.to(x.dtype)
