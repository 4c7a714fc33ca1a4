"""The score of an image against a class: transport between prompts whose cost holds transport between tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import check_finite, check_mask, check_tensor
from .options import check_options, check_scale
from .sinkhorn import SinkhornOutput, sinkhorn
from .tokens import solve_tokens, unit


class HierarchicalOutput(NamedTuple):
    """Scores and everything they were made of. B images, K classes, M visual and N text prompts."""

    logits: Tensor
    """(B, K)"""
    distance: Tensor
    """(B, K) <T, C> of the prompt level."""
    cost: Tensor
    """(B, K, M, N) prompt-level cost C."""
    prompt: SinkhornOutput
    """Batch (B, K), plans (B, K, M, N)."""
    token: SinkhornOutput | None
    """Batch (B, K, M, N); its plan, (B, K, M, N, J, L), only with ``keep_plans``. None where the level is left out."""


def hierarchical_ot(
    z: Tensor,
    h: Tensor,
    r: Tensor | None = None,
    s: Tensor | None = None,
    *,
    r_mask: Tensor | None = None,
    s_mask: Tensor | None = None,
    logit_scale: float | Tensor = 1.0,
    reading: str = "paper",
    beta: float = 1.0,
    lambda_prompt: float = 0.1,
    lambda_token: float = 0.1,
    max_iter: int = 100,
    tol: float = 1e-2,
    gradient: str = "envelope",
    hierarchical: bool = True,
    keep_plans: bool = False,
    max_elements: int = 2**26,
    engine: str = "torch",
    pooled: Callable[[Tensor], Tensor] | None = None,
) -> HierarchicalOutput:
    """Score every image against every class by two levels of entropic optimal transport.

    ``paper``:    C = 1 - cos(z, h) + beta <That, 1 - cos(r, s)>;  logits = logit_scale (1 - <T, C>).
    ``released``: C = 1 - cos(z, h) + beta <That, cos(r, s)>;      logits = logit_scale <T, cos(z, h)>,
    with That and T the plans of the token and of the prompt level. In ``paper`` each problem stops by itself when its
    row sums are within ``tol`` (L1), so an image's score against a class depends on nothing else. In ``released`` the
    problems of one (image, class) pair stop together at the token level, and all B * K at the prompt level, by the
    mean change of r; the token term only shapes the plan: no gradient goes through it. Either is computed in float32
    or better.

    Args:
        z: prompt-level visual features (B, M, D), any length and floating dtype.
        h: prompt-level text features (K, N, D).
        r: visual tokens (B, M, J, D); may be None where the token level is left out.
        s: text tokens (K, N, L, D); likewise.
        r_mask: bool, broadcastable to (B, M, J), True = valid token. None: all valid.
        s_mask: bool, broadcastable to (K, N, L). None: all valid.
        logit_scale: 1 / tau, a number or a tensor of one element.
        reading: ``paper`` or ``released``.
        beta: weight of the token term, >= 0; 0 leaves the token level out.
        lambda_prompt, lambda_token: entropy weight of each level, > 0.
        max_iter, tol: iteration cap (>= 1) and tolerance (>= 0) of both levels.
        gradient: ``envelope`` (plans are constants) or ``unrolled`` (through the iterations; ``paper`` only).
        hierarchical: False leaves the token level out.
        keep_plans: return the token plans too.
        max_elements: the most token costs (of B * K * M * N * J * L) held at once, >= 1; more are solved in chunks over
            classes and images, to the same result. One (image, class) pair is the smallest chunk. On a
            CPU one chunk of costs and a few blocks of 4 MiB a thread are held at once, in the backward pass the blocks
            alone; ``keep_plans`` and ``unrolled`` (every iteration of a chunk) hold more. The costs of the prompt
            level, B * K * M * N, are held together.
        engine: as for ``sinkhorn``, at both levels; ``triton`` for ``paper`` alone.
        pooled: where other processes hold further images of the batch: the sum of a tensor over them, by which the
            prompt level of ``released`` stops as in one process. ``paper`` does not need it.

    Returns:
        HierarchicalOutput.

    Raises:
        TypeError, ValueError: one line saying what was given and what is allowed.

    Reference:
        ALIGN (arXiv 2309.13847), Eq. 4 to 7; ``released`` is what the authors' published code computes.
    """
    check_options(
        reading=reading,
        beta=beta,
        lambda_prompt=lambda_prompt,
        lambda_token=lambda_token,
        max_iter=max_iter,
        tol=tol,
        gradient=gradient,
        hierarchical=hierarchical,
        keep_plans=keep_plans,
        max_elements=max_elements,
        engine=engine,
    )
    z = check_tensor("z", z, "(B, M, D)", (None, None, None))
    h = check_tensor("h", h, "(K, N, D)", (None, None, z.shape[-1]))
    scale = check_scale(logit_scale)
    released = reading == "released"
    solver: dict[str, Any] = {
        "max_iter": max_iter,
        "tol": tol,
        "stop": "change" if released else "marginal",
        "group_dims": 2 if released else 0,  # token level: (M, N) of a pair; prompt level: (B, K)
        "engine": engine,
    }
    with torch.autocast(z.device.type, enabled=False):
        check_finite("z", z)
        check_finite("h", h)
        cosine = torch.einsum("bmd,knd->bkmn", *unit(z, h))
        cost = 1.0 - cosine
        score = cosine  # what the prompt plan averages into 1 - d (paper) or <T, cos> (released)
        token = None
        if hierarchical and beta > 0:
            r, s, r_mask, s_mask = _check_tokens(z, h, r, s, r_mask, s_mask)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not released):
                token = solve_tokens(
                    *unit(r, s),
                    r_mask,
                    s_mask,
                    lam=lambda_token,
                    gradient=gradient,
                    keep_plans=keep_plans,
                    max_elements=max_elements,
                    **solver,
                )
                # Plans sum to 1, so <That, cos> = 1 - <That, 1 - cos>.
                term = beta * (1.0 - token.distance if released else token.distance)
            cost = cost + term
            score = score if released else score - term
        prompt = sinkhorn(cost, lam=lambda_prompt, gradient=gradient, pooled=pooled if released else None, **solver)
        plan = prompt.plan
        if plan is None:
            raise RuntimeError("the prompt-level plan is missing; sinkhorn always returns it")
        # Plans sum to 1, so this is 1 - <T, C> in ``paper``, without the rounding of 1 - (1 - cos).
        logits = scale * (plan * score).sum((-2, -1))
    return HierarchicalOutput(logits, prompt.distance, cost, prompt, token)


def _check_tokens(
    z: Tensor, h: Tensor, r: Tensor | None, s: Tensor | None, r_mask: Tensor | None, s_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return r, s with zeros on masked tokens, and the full masks (B, M, J), (K, N, L) or None."""
    for name, value, shape in (("r", r, "(B, M, J, D)"), ("s", s, "(K, N, L, D)")):
        if value is None:
            raise ValueError(f"{name} is None; allowed: tokens {shape}, or None with beta=0 or hierarchical=False")
    r = check_tensor("r", r, "(B, M, J, D)", (z.shape[0], z.shape[1], None, z.shape[2]))
    s = check_tensor("s", s, "(K, N, L, D)", (h.shape[0], h.shape[1], None, h.shape[2]))
    r_mask = check_mask("r_mask", r_mask, r.shape[:-1], r.device)
    s_mask = check_mask("s_mask", s_mask, s.shape[:-1], s.device)
    r = r if r_mask is None else r.masked_fill(~r_mask.unsqueeze(-1), 0.0)
    s = s if s_mask is None else s.masked_fill(~s_mask.unsqueeze(-1), 0.0)
    check_finite("r", r)
    check_finite("s", s)
    return r, s, r_mask, s_mask
