"""The head as a module: settings at construction, features at each call."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .hierarchical import HierarchicalOutput, hierarchical_ot
from .options import check_options


class HierarchicalOT(nn.Module):
    """``hierarchical_ot`` with its settings fixed at construction, where they are checked; no parameters.

    Args:
        reading, beta, lambda_prompt, lambda_token, max_iter, tol, gradient, hierarchical, keep_plans, max_elements:
            as for ``hierarchical_ot``.

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
        }
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
        return hierarchical_ot(z, h, r, s, r_mask=r_mask, s_mask=s_mask, logit_scale=logit_scale, **self.settings)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
