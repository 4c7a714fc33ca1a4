"""Token level of the head: distances between all pairs of token sets, in chunks that fit a stated budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .sinkhorn import SinkhornOutput, sinkhorn
from .solve import cached


def unit(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both at length 1 along the last axis, in the wider of their dtypes and at least float32."""
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return F.normalize(left.to(dtype), dim=-1), F.normalize(right.to(dtype), dim=-1)


def token_cost(r: Tensor, s: Tensor) -> Tensor:
    """1 - cos(r_j, s_l) for unit features: r (B, M, J, D), s (K, N, L, D) -> (B, K, M, N, J, L) (Eq. 5)."""
    return 1.0 - torch.einsum("bmjd,knld->bkmnjl", r, s)


def _cost_in_place(r: Tensor, s: Tensor) -> Tensor:
    """``token_cost`` with J innermost in memory, as the iterations want it."""
    cosine = _cosines(r, s)  # (B, M, K, N, L, J)
    return cosine.neg_().add_(1.0).transpose(1, 2).mT


def _cosines(r: Tensor, s: Tensor) -> Tensor:
    """cos(r_j, s_l) for unit features r (B, M, J, D), s (K, N, L, D) as (B, M, K, N, L, J): one product for all."""
    return (s.flatten(0, 2) @ r.mT).unflatten(2, s.shape[:3])


def solve_tokens(
    r: Tensor,
    s: Tensor,
    r_mask: Tensor | None,
    s_mask: Tensor | None,
    *,
    gradient: str,
    keep_plans: bool,
    max_elements: int,
    **solver: Any,
) -> SinkhornOutput:
    """Solve the transport between r[b, m] and s[k, n] for every image, class and pair of prompts.

    Args:
        r, s: unit features (B, M, J, D) and (K, N, L, D), zero on masked entries.
        r_mask, s_mask: bool (B, M, J) and (K, N, L), or None.
        gradient: as for ``sinkhorn``; where autograd is off nothing is recorded.
        keep_plans: return the plans, (B, K, M, N, J, L), else ``plan`` is None.
        max_elements: the most costs held at once; at least one (image, class) pair is.
        **solver: further arguments of ``sinkhorn``.

    Returns:
        SinkhornOutput with batch dimensions (B, K, M, N).
    """
    images, classes = _chunk_sizes(r, s, max_elements)
    r_parts = _split(r, r_mask, images)
    s_parts = _split(s, s_mask, classes)
    one_chunk = len(r_parts) * len(s_parts) == 1
    grid = [
        [_solve_chunk(*r_part, *s_part, gradient, keep_plans, not one_chunk, solver) for s_part in s_parts]
        for r_part in r_parts
    ]
    if one_chunk:
        return grid[0][0]

    def assemble(parts: Sequence[Sequence[Any]]) -> Any:
        return torch.cat([torch.cat(list(row), dim=1) for row in parts], dim=0)

    fields = {
        name: assemble([[getattr(chunk, name) for chunk in row] for row in grid])
        for name in ("distance", "iterations", "error", "converged")
    }
    potentials = tuple(assemble([[chunk.potentials[i] for chunk in row] for row in grid]) for i in (0, 1))
    plan = assemble([[chunk.plan for chunk in row] for row in grid]) if keep_plans else None
    return SinkhornOutput(plan=plan, potentials=(potentials[0], potentials[1]), **fields)


def _chunk_sizes(r: Tensor, s: Tensor, max_elements: int) -> tuple[int, int]:
    """Images and classes a chunk holds: as many classes as fit, then as many images."""
    pair = r.shape[1] * s.shape[1] * r.shape[2] * s.shape[2]  # M * N * J * L
    classes = max(1, min(s.shape[0], max_elements // pair))
    images = max(1, min(r.shape[0], max_elements // (pair * classes)))
    return images, classes


def _split(features: Tensor, mask: Tensor | None, size: int) -> list[tuple[Tensor, Tensor | None]]:
    # One split, not many slices: its backward is one concatenation instead of a full-size sum for each chunk.
    parts = features.split(size)
    return list(zip(parts, [None] * len(parts) if mask is None else mask.split(size)))


def _solve_chunk(
    r: Tensor,
    r_mask: Tensor | None,
    s: Tensor,
    s_mask: Tensor | None,
    gradient: str,
    keep_plans: bool,
    recompute: bool,
    solver: dict[str, Any],
) -> SinkhornOutput:
    """One chunk. ``recompute``: the unrolled backward pass repeats the iterations instead of storing them."""
    row_mask = None if r_mask is None else r_mask[:, None, :, None]
    col_mask = None if s_mask is None else s_mask[None, :, None]

    learning = torch.is_grad_enabled() and (r.requires_grad or s.requires_grad)

    def run(r: Tensor, s: Tensor) -> SinkhornOutput:
        cost = token_cost(r, s) if torch.is_grad_enabled() and learning else _cost_in_place(r, s)  # (b, k, M, N, J, L)
        return sinkhorn(cost, row_mask=row_mask, col_mask=col_mask, gradient=gradient, keep_plan=keep_plans, **solver)

    if gradient == "unrolled" and learning:
        return SinkhornOutput(*checkpoint(run, r, s, use_reentrant=False)) if recompute else run(r, s)
    with torch.no_grad():
        solved = run(r, s)
    if not learning:
        return solved
    distance = _EnvelopeDistance.apply(r, s, r_mask, s_mask, solved.distance, *solved.potentials, solver["lam"])
    return solved._replace(distance=distance)


class _EnvelopeDistance(torch.autograd.Function):
    """Distances already solved, with the gradient of <T, 1 - cos(r, s)> for constant T.

    What waits for the backward pass is the potentials, J + L numbers a problem instead of J * L: the plan is rebuilt
    there as exp((f + g - cost) / lam).
    """

    @staticmethod
    def forward(
        ctx: Any,
        r: Tensor,
        s: Tensor,
        r_mask: Tensor | None,
        s_mask: Tensor | None,
        distance: Tensor,
        f: Tensor,
        g: Tensor,
        lam: float,
    ) -> Tensor:
        ctx.save_for_backward(r, s, r_mask, s_mask, f, g)
        ctx.lam = lam
        return distance.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        r, s, r_mask, s_mask, f, g = ctx.saved_tensors
        if r_mask is not None:
            f = f.masked_fill(~r_mask[:, None, :, None], -torch.inf)
        if s_mask is not None:
            g = g.masked_fill(~s_mask[None, :, None], -torch.inf)
        grad_r, grad_s = (
            torch.zeros(x.shape, dtype=x.dtype, device=x.device) if need else None
            for x, need in zip((r, s), ctx.needs_input_grad)
        )
        classes, problem = len(s), r.shape[:3].numel() * s.shape[1:3].numel()  # costs a class: B * M * J * N * L
        part = cached(problem * r.element_size()) if r.device.type == "cpu" else classes
        with torch.autocast(r.device.type, enabled=False):
            for k in range(0, classes, part):  # blocks of classes that stay in the cache
                block = slice(k, k + part)
                text = s[block]
                pull = _cosines(r, text)  # (B, M, k, N, L, J): the cosines, then plan * upstream
                pull.add_(f[:, block].transpose(1, 2).unsqueeze(-2))
                pull.add_((g[:, block] - 1.0).transpose(1, 2).unsqueeze(-1))
                pull.div_(ctx.lam).exp_().mul_(upstream[:, block].transpose(1, 2)[..., None, None])
                pull = pull.flatten(2, 4)  # (B, M, k N L, J)
                if grad_r is not None:
                    grad_r -= pull.mT @ text.flatten(0, 2)
                if grad_s is not None:
                    grad_s[block] -= torch.einsum("bmxj,bmjd->xd", pull, r).view_as(text)
        return grad_r, grad_s, None, None, None, None, None, None
