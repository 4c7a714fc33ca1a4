"""The head as a module: settings at construction, features at each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .hierarchical import HierarchicalOutput, hierarchical_ot
from .options import check_options


class HierarchicalOT(nn.Module):
    """``hierarchical_ot`` with its settings fixed at construction, where they are checked; no parameters.

    Args:
        reading, beta, lambda_prompt, lambda_token, max_iter, tol, gradient, hierarchical, keep_plans, max_elements,
            engine: as for ``hierarchical_ot``.

    Attributes:
        pooled: as for ``hierarchical_ot``, for training; whoever gives processes parts of a batch sets it. Batches that
            are only scored are whole.

    Raises:
        TypeError, ValueError: one line saying what was given and what is allowed.
    """

    def __init__(
        self,
        *,
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
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "reading": reading,
            "beta": beta,
            "lambda_prompt": lambda_prompt,
            "lambda_token": lambda_token,
            "max_iter": max_iter,
            "tol": tol,
            "gradient": gradient,
            "hierarchical": hierarchical,
            "keep_plans": keep_plans,
            "max_elements": max_elements,
            "engine": engine,
        }
        self.pooled: Callable[[Tensor], Tensor] | None = None
        check_options(**self.settings)

    @property
    def uses_tokens(self) -> bool:
        """Whether ``forward`` needs r and s."""
        return bool(self.settings["hierarchical"] and self.settings["beta"] > 0)

    @property
    def learns_tokens(self) -> bool:
        """Whether a gradient goes through r and s."""
        return self.uses_tokens and self.settings["reading"] != "released"

    def forward(
        self,
        z: Tensor,
        h: Tensor,
        r: Tensor | None = None,
        s: Tensor | None = None,
        r_mask: Tensor | None = None,
        s_mask: Tensor | None = None,
        logit_scale: float | Tensor = 1.0,
    ) -> HierarchicalOutput:
        """Score z (B, M, D), r (B, M, J, D) against h (K, N, D), s (K, N, L, D); see ``hierarchical_ot``."""
        pooled = self.pooled if torch.is_grad_enabled() else None
        given = {**self.settings, "pooled": pooled}
        return hierarchical_ot(z, h, r, s, r_mask=r_mask, s_mask=s_mask, logit_scale=logit_scale, **given)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
