"""Token level of the head (Eq. 5): distances between all pairs of token sets, in chunks over images and classes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .settings import SinkhornSettings
from .sinkhorn import sinkhorn
from .solver import KERNEL_LIMIT, SinkhornOutput, cached_elements, concatenate


def unit(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors, normalised along the last axis, in float32 or float64."""
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return F.normalize(left.to(dtype), dim=-1), F.normalize(right.to(dtype), dim=-1)


def cosines(r: Tensor, s: Tensor) -> Tensor:
    """Return cos(r_j, s_l) of unit features r (B, M, J, D), s (K, N, L, D) as (B, M, K, N, L, J), by one product."""
    return (s.flatten(0, 2) @ r.mT).unflatten(2, s.shape[:3])


def token_cost(r: Tensor, s: Tensor) -> Tensor:
    """Return 1 - cos(r_j, s_l) of unit features r (B, M, J, D), s (K, N, L, D) as (B, K, M, N, J, L) (Eq. 5)."""
    return (1.0 - cosines(r, s)).transpose(1, 2).mT


def solve_tokens(
    r: Tensor,
    s: Tensor,
    r_mask: Tensor | None,
    s_mask: Tensor | None,
    settings: SinkhornSettings,
    return_plans: bool,
    max_elements: int,
) -> SinkhornOutput:
    """Solve the transport between r[b, m] and s[k, n] for all images, classes and pairs of prompts.

    Args:
        r, s: unit features (B, M, J, D) and (K, N, L, D), zero on masked entries.
        r_mask, s_mask: bool (B, M, J) and (K, N, L), or None.
        settings: settings of the token level.
        return_plans: return the plans (B, K, M, N, J, L), else ``plan`` is None.
        max_elements: largest number of costs in a chunk.

    Returns:
        SinkhornOutput with batch dimensions (B, K, M, N).
    """
    unrolled = settings.gradient == "unrolled" and torch.is_grad_enabled() and (r.requires_grad or s.requires_grad)
    if r.device.type == "cpu" and not unrolled:
        max_elements = min(max_elements, cached_elements())
    pair = r.shape[1] * s.shape[1] * r.shape[2] * s.shape[2]  # M N J L
    classes = max(1, min(len(s), max_elements // pair))
    images = max(1, min(len(r), max_elements // (pair * classes)))
    # split() has one concatenation as its backward pass; slicing would add one full-size gradient per slice.
    r_chunks = list(zip(r.split(images), _split(r_mask, images, len(r))))
    s_chunks = list(zip(s.split(classes), _split(s_mask, classes, len(s))))
    one_chunk = len(r_chunks) == len(s_chunks) == 1
    # Unrolled chunks are recomputed in the backward pass, so that memory holds the iterations of one chunk only.
    solve = partial(checkpoint, _solve_chunk, use_reentrant=False) if unrolled and not one_chunk else _solve_chunk
    grid = [[solve(*r_chunk, *s_chunk, settings, return_plans) for s_chunk in s_chunks] for r_chunk in r_chunks]
    if one_chunk:
        return grid[0][0]
    return concatenate([concatenate(row, dim=1) for row in grid], dim=0)


def _split(mask: Tensor | None, size: int, total: int) -> Sequence[Tensor | None]:
    return [None] * -(-total // size) if mask is None else mask.split(size)


def _solve_chunk(
    r: Tensor, r_mask: Tensor | None, s: Tensor, s_mask: Tensor | None, settings: SinkhornSettings, return_plans: bool
) -> SinkhornOutput:
    row_mask = None if r_mask is None else r_mask[:, None, :, None]
    col_mask = None if s_mask is None else s_mask[None, :, None]
    with torch.set_grad_enabled(torch.is_grad_enabled() and settings.gradient == "unrolled"):
        solved = sinkhorn(token_cost(r, s), settings, row_mask=row_mask, col_mask=col_mask, return_plan=return_plans)
    if not torch.is_grad_enabled() or settings.gradient == "unrolled":
        return solved
    distance = _EnvelopeDistance.apply(r, s, r_mask, s_mask, solved.distance, *solved.potentials, settings.lam)
    return solved._replace(distance=distance)


class _EnvelopeDistance(torch.autograd.Function):
    """The distances of a solved chunk, with the gradient of <T, 1 - cos(r, s)> for constant plans T.

    The backward pass rebuilds the plans as exp((f + g - cost) / lam): the potentials are J + L numbers per problem,
    instead of J L.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        r, s, r_mask, s_mask, distance, f, g, ctx.lam = inputs
        ctx.save_for_backward(r, s, r_mask, s_mask, f, g)
        return distance.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        r, s, r_mask, s_mask, f, g = ctx.saved_tensors  # f (B, K, M, N, J), g (B, K, M, N, L)
        if r_mask is not None:
            f = f.masked_fill(~r_mask[:, None, :, None], -torch.inf)
        if s_mask is not None:
            g = g.masked_fill(~s_mask[None, :, None], -torch.inf)
        f, g, upstream = f.transpose(1, 2), g.transpose(1, 2), upstream.transpose(1, 2)  # the order of ``cosines``
        with torch.autocast(r.device.type, enabled=False):
            # In place: (cos - 1 + f + g) / lam, the plan, plan * upstream; (B, M, K, N, L, J).
            pull = cosines(r, s).add_(f.unsqueeze(-2)).add_((g - 1.0).unsqueeze(-1))
            pull = pull.div_(ctx.lam).exp_()
            if ctx.lam < 2 / KERNEL_LIMIT:  # large exponents have rounding errors: restore the column sums
                v = torch.ones_like(s[..., :1]) if s_mask is None else s_mask.unsqueeze(-1).to(s.dtype)
                pull.mul_(v / v.sum(-2, keepdim=True) / pull.sum(-1, keepdim=True).clamp_min(1e-30))
            pull = pull.mul_(upstream[..., None, None]).flatten(2, 4)  # (B, M, K N L, J)
            grad_r = -(pull.mT @ s.flatten(0, 2)) if ctx.needs_input_grad[0] else None
            grad_s = -torch.einsum("bmxj,bmjd->xd", pull, r).view_as(s) if ctx.needs_input_grad[1] else None
        return grad_r, grad_s, None, None, None, None, None, None
