"""A Triton kernel that holds one problem in registers through all its iterations; import it only where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..solve import KERNEL_LIMIT, Masks, Solved
from . import rounded


@triton.jit
def _sinkhorn(  # type: ignore[no-untyped-def]
    cost_ptr, row_ptr, col_ptr, plan_ptr, f_ptr, g_ptr, distance_ptr, error_ptr, depth_ptr, iterations_ptr,
    converged_ptr, cost_p, cost_j, cost_l, row_p, row_j, col_p, col_l, rows, cols, lam, tol, max_iter, limit,
    MASKED: tl.constexpr, KEEP_PLAN: tl.constexpr, J: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Solve problem ``program_id(0)``; the same steps as ``iterate`` with a ``KernelDomain`` and stop ``marginal``."""
    p = tl.program_id(0).to(tl.int64)
    j, l = tl.arange(0, J), tl.arange(0, L)  # noqa: E741
    row, col = j < rows, l < cols
    if MASKED:
        row = row & (tl.load(row_ptr + p * row_p + j * row_j, mask=row, other=0) != 0)
        col = col & (tl.load(col_ptr + p * col_p + l * col_l, mask=col, other=0) != 0)
    u = tl.where(row, 1.0, 0.0) / tl.sum(tl.where(row, 1.0, 0.0), 0)
    v = tl.where(col, 1.0, 0.0) / tl.sum(tl.where(col, 1.0, 0.0), 0)
    valid = row[:, None] & col[None, :]
    where = cost_ptr + p * cost_p + j[:, None] * cost_j + l[None, :] * cost_l
    cost = tl.load(where, mask=valid, other=0.0).to(tl.float32)
    shift = tl.where(row, tl.min(tl.where(valid, cost, float("inf")), 1), 0.0)
    scaled = tl.where(valid, (cost - shift[:, None]) / lam, 0.0)
    # A comparison with NaN is false, so NaN and infinite costs count as beyond the limit too.
    within = tl.min(tl.min(tl.where(scaled <= limit, 1, 0), 1), 0)
    depth = tl.where(within == 1, tl.max(tl.max(scaled, 1), 0), float("inf"))
    kernel = tl.where(valid, tl.exp(-scaled), 0.0)

    r = u
    c = tl.where(col, 1.0, 0.0)
    total = tl.sum(kernel, 1)
    gap = tl.sum(u, 0) + tol
    step = 0
    going = within == 1
    while going:
        r = tl.where(row, u / tl.where(row, total, 1.0), 0.0)
        column = tl.sum(kernel * r[:, None], 0)
        c = tl.where(col, v / tl.where(col, column, 1.0), 0.0)
        total = tl.sum(kernel * c[None, :], 1)
        gap = tl.sum(tl.abs(r * total - u), 0)
        step += 1
        going = ((gap > tol) | (tol == 0)) & (step < max_iter)

    plan = r[:, None] * kernel * c[None, :]
    tl.store(distance_ptr + p, tl.sum(tl.sum(plan * cost, 1), 0))
    tl.store(error_ptr + p, gap)
    tl.store(depth_ptr + p, depth)
    tl.store(iterations_ptr + p, step)
    tl.store(converged_ptr + p, tl.where(gap <= tol, 1, 0))
    f = tl.where(row, lam * tl.log(tl.where(row, r, 1.0)) + shift, 0.0)
    g = tl.where(col, lam * tl.log(tl.where(col, c, 1.0)), 0.0)
    tl.store(f_ptr + p * rows + j, f, mask=j < rows)
    tl.store(g_ptr + p * cols + l, g, mask=l < cols)
    if KEEP_PLAN:
        inside = (j < rows)[:, None] & (l < cols)[None, :]
        tl.store(plan_ptr + p * rows * cols + j[:, None] * cols + l[None, :], plan, mask=inside)


def solve_on_chip(
    cost: Tensor, masks: Masks | None, lam: float, keep_plan: bool, max_iter: int, tol: float
) -> tuple[Solved, Tensor]:
    """Solve costs (P, J, L) of any strides, up to float32, one program a problem.

    Args:
        cost, masks, lam, keep_plan, max_iter, tol: as for ``solve``; stop is ``marginal``.

    Returns:
        What came out, and for each problem the largest (cost - row minimum) / lam (P,): where that is above
        ``KERNEL_LIMIT`` (infinity if costs are not finite) the problem was left unsolved.
    """
    problems, rows, cols = cost.shape

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(problems, *shape, dtype=dtype, device=cost.device)

    plan = new(rows, cols) if keep_plan else None
    f, g, distance, error, depth = new(rows), new(cols), new(), new(), new()
    iterations, converged = new(dtype=torch.int64), new(dtype=torch.bool)
    row, col = (x.view(torch.uint8) for x in masks) if masks else (iterations, iterations)  # unread without masks
    strides = (*row.stride(), *col.stride()) if masks else (0, 0, 0, 0)
    entries = rounded(rows) * rounded(cols)
    with torch.cuda.device_of(cost):
        _sinkhorn[(problems,)](
            cost, row, col, distance if plan is None else plan, f, g, distance, error, depth, iterations,
            converged.view(torch.uint8), *cost.stride(), *strides, rows, cols, lam, tol, max_iter, KERNEL_LIMIT,
            MASKED=masks is not None, KEEP_PLAN=keep_plan, J=rounded(rows), L=rounded(cols),
            num_warps=max(1, min(16, entries // 512)),
        )  # fmt: skip
    return Solved(plan, distance, f, g, iterations, error, converged), depth
