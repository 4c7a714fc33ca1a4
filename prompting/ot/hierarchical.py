"""Hierarchical optimal transport: the cost between two prompts includes the transport distance of their tokens.

Shape letters: B images, K classes, M visual and N text prompts, J visual and L text tokens per prompt, D features.
"""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .checks import check_finite, check_mask, check_number, check_tensor, is_exporting
from .settings import HeadSettings
from .sinkhorn import sinkhorn
from .solver import SinkhornOutput
from .statistics import TransportStatistics
from .tokens import solve_tokens, unit


class HierarchicalInput(NamedTuple):
    """The features that the head scores; the fields are the leading arguments of ``HierarchicalOT``."""

    z: Tensor
    """(B, M, D) prompt-level visual features."""
    h: Tensor
    """(K, N, D) prompt-level text features."""
    r: Tensor | None = None
    """(B, M, J, D) visual tokens."""
    s: Tensor | None = None
    """(K, N, L, D) text tokens."""
    s_mask: Tensor | None = None
    """(K, N, L) bool, True = valid text token; None: all valid."""

    def select(self, classes: Tensor) -> "HierarchicalInput":
        """Return the input with some of the K classes, given by their indices."""
        s, s_mask = (None if value is None else value[classes] for value in (self.s, self.s_mask))
        return self._replace(h=self.h[classes], s=s, s_mask=s_mask)


class HierarchicalOutput(NamedTuple):
    """Logits, and the transport of both levels."""

    logits: Tensor
    """(B, K)"""
    distance: Tensor
    """(B, K) <T, C>, d(X, k) of Eq. 4."""
    cost: Tensor
    """(B, K, M, N) prompt-level cost C, Eq. 6."""
    prompt: SinkhornOutput
    """Prompt level: batch (B, K), plans T (B, K, M, N)."""
    token: SinkhornOutput | None
    """Token level: batch (B, K, M, N), plans T_tok (B, K, M, N, J, L) with ``return_plans``; None without tokens."""


def hierarchical_ot(
    z: Tensor,
    h: Tensor,
    r: Tensor | None = None,
    s: Tensor | None = None,
    settings: HeadSettings | None = None,
    *,
    r_mask: Tensor | None = None,
    s_mask: Tensor | None = None,
    logit_scale: float | Tensor = 1.0,
    return_plans: bool = False,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
    **changes: Any,
) -> HierarchicalOutput:
    """Score every image against every class by two levels of entropic optimal transport.

    ``paper``:    C = 1 - cos(z, h) + beta <T_tok, 1 - cos(r, s)>;  logits = logit_scale (1 - <T, C>).
    ``released``: C = 1 - cos(z, h) + beta <T_tok, cos(r, s)>;      logits = logit_scale <T, cos(z, h)>,
    with T and T_tok the plans of the prompt and of the token level. In ``paper`` a problem stops when the L1 error of
    its row sums is at most ``tol``, so that a score depends on its image and its class only. In ``released`` problems
    stop together, by the mean change of the scaling r: the M N token-level problems of an (image, class) pair, and all
    B K prompt-level problems; the token term affects the plan T only and takes no gradient. The transport is computed
    in float32, or in float64 if an input is.

    Args:
        z: prompt-level visual features (B, M, D), of any norm and floating dtype.
        h: prompt-level text features (K, N, D).
        r: visual tokens (B, M, J, D); None without the token level.
        s: text tokens (K, N, L, D); None without the token level.
        settings: a ``HeadSettings``; None for the defaults.
        r_mask: bool, broadcastable to (B, M, J), True = valid token. None: all valid.
        s_mask: bool, broadcastable to (K, N, L). None: all valid.
        logit_scale: 1 / tau > 0, a number or a tensor of one element.
        return_plans: return the token-level plans too.
        all_reduce_sum: sums a tensor over the processes that share a batch, so that the prompt level of ``released``
            stops as in a single process. ``paper`` does not use it.
        **changes: fields of ``HeadSettings`` that differ from ``settings``.

    Returns:
        HierarchicalOutput.

    Raises:
        TypeError, ValueError: one line with the value found and the values allowed.

    Source:
        ALIGN (arXiv 2309.13847), Eqs. 4 to 7; ``released`` is the computation of the authors' published code.
    """
    settings = replace(settings or HeadSettings(), **changes)
    released = settings.reading == "released"
    scale = _check_scale(logit_scale)
    check_tensor("z", z, "(B, M, D)", (None, None, None))
    check_tensor("h", h, "(K, N, D)", (None, None, z.shape[-1]))
    check_finite("z", z)
    check_finite("h", h)

    with torch.autocast(z.device.type, enabled=False):
        similarity = torch.einsum("bmd,knd->bkmn", *unit(z, h))
        cost = 1.0 - similarity
        token = None
        if settings.uses_tokens:
            tokens = _check_tokens(z, h, r, s, r_mask, s_mask)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not released):
                solver = settings.solver(settings.lambda_token)
                token = solve_tokens(*tokens, solver, return_plans, settings.max_elements)  # Eq. 5
            if released:  # a plan sums to 1, so <T_tok, cos> = 1 - <T_tok, 1 - cos>
                cost = cost + settings.beta * (1.0 - token.distance)
            else:
                cost = cost + settings.beta * token.distance  # Eq. 6
                similarity = similarity - settings.beta * token.distance  # 1 - C
        solver = settings.solver(settings.lambda_prompt)
        prompt = sinkhorn(cost, solver, all_reduce_sum=all_reduce_sum if released else None)  # Eq. 4
        # Eq. 7: 1 - <T, C> = <T, 1 - C> since a plan sums to 1; <T, cos> in ``released``.
        logits = scale * (cast(Tensor, prompt.plan) * similarity).sum((-2, -1))
    return HierarchicalOutput(logits, prompt.distance, cost, prompt, token)


class HierarchicalOT(nn.Module):
    """``hierarchical_ot`` as a module with fixed settings and no parameters.

    ``statistics.read()`` returns the number of problems since its last call, how many did not converge, their mean
    iterations, the mean entropy of their plans, and that of uniform plans.

    Args:
        settings: a ``HeadSettings``; None for the defaults.
        all_reduce_sum: as for ``hierarchical_ot``, for training; in evaluation each process scores whole batches.
        **changes: fields of ``HeadSettings`` that differ from ``settings``.

    Raises:
        TypeError, ValueError: one line with the value found and the values allowed.
    """

    def __init__(
        self,
        settings: HeadSettings | None = None,
        *,
        all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        self.settings = replace(settings or HeadSettings(), **changes)
        self.all_reduce_sum = all_reduce_sum
        self.statistics = TransportStatistics()

    @property
    def uses_tokens(self) -> bool:
        """Whether ``forward`` needs r and s."""
        return self.settings.uses_tokens

    @property
    def learns_tokens(self) -> bool:
        """Whether r and s take a gradient."""
        return self.uses_tokens and self.settings.reading != "released"

    def forward(
        self,
        z: Tensor,
        h: Tensor,
        r: Tensor | None = None,
        s: Tensor | None = None,
        *,
        r_mask: Tensor | None = None,
        s_mask: Tensor | None = None,
        logit_scale: float | Tensor = 1.0,
        return_plans: bool = False,
    ) -> HierarchicalOutput:
        """Score z (B, M, D), r (B, M, J, D) against h (K, N, D), s (K, N, L, D); see ``hierarchical_ot``."""
        if is_exporting():
            raise ValueError(
                "the transport stops by its data, which torch.export cannot express: export the form with a fixed "
                "number of iterations, prompting.export.convert.portable(classifier)"
            )
        more: dict[str, Any] = {"r_mask": r_mask, "s_mask": s_mask, "return_plans": return_plans}
        reduce = self.all_reduce_sum if torch.is_grad_enabled() else None
        out = hierarchical_ot(z, h, r, s, self.settings, logit_scale=logit_scale, all_reduce_sum=reduce, **more)
        self.statistics.add("prompt", out.prompt, _mean_log_count(z) + _mean_log_count(h))
        if out.token is not None and r is not None and s is not None:
            # Each visual set meets each text set, so that the mean of ln(J L) is that of ln J plus that of ln L.
            self.statistics.add("token", out.token, _mean_log_count(r, r_mask) + _mean_log_count(s, s_mask))
        return out

    def score(
        self, features: HierarchicalInput, *, logit_scale: float | Tensor = 1.0, return_plans: bool = False
    ) -> HierarchicalOutput:
        """Score the features of ``model.head_input(images)``; arguments and result as for ``hierarchical_ot``."""
        z, h, r, s, s_mask = features
        return self(z, h, r, s, s_mask=s_mask, logit_scale=logit_scale, return_plans=return_plans)

    def extra_repr(self) -> str:
        return ", ".join(f"{field.name}={getattr(self.settings, field.name)!r}" for field in fields(self.settings))


def _mean_log_count(vectors: Tensor, mask: Tensor | None = None) -> Tensor | float:
    """Return the mean of ln J over the sets (..., J, D), with J the number of valid vectors of a set."""
    if mask is None:
        return math.log(vectors.shape[-2])
    return mask.expand(vectors.shape[:-1]).sum(-1).double().log().mean()


def _check_scale(logit_scale: float | Tensor) -> float | Tensor:
    """Return a positive number unchanged, a tensor of one element as a scalar of float32 or float64."""
    if not isinstance(logit_scale, Tensor):
        check_number("logit_scale", logit_scale, minimum=0.0, strict=True)
        return logit_scale
    if logit_scale.numel() != 1 or not logit_scale.is_floating_point():
        raise ValueError(
            f"logit_scale is a {logit_scale.dtype} tensor of shape {tuple(logit_scale.shape)}; "
            "allowed: a number > 0 or a floating tensor of one element"
        )
    value = logit_scale.reshape(())
    return value if value.dtype == torch.float64 else value.float()


def _check_tokens(
    z: Tensor, h: Tensor, r: Tensor | None, s: Tensor | None, r_mask: Tensor | None, s_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return unit r and s with zeros on masked tokens, and the masks (B, M, J) and (K, N, L) or None."""
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
    return *unit(r, s), r_mask, s_mask
