"""What the settings of the solver and of the head may be."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_choice, check_count, check_number
from .chip import ENGINES

GRADIENTS = ("envelope", "unrolled")
READINGS = ("paper", "released")


def check_solver(*, lam: float, max_iter: int, tol: float, gradient: str, lam_name: str = "lam") -> None:
    """Raise one clear line unless the solver's numbers and gradient mode are allowed."""
    check_number(lam_name, lam, minimum=0.0, strict=True)
    check_count("max_iter", max_iter)
    check_number("tol", tol, minimum=0.0)
    check_choice("gradient", gradient, GRADIENTS)


def check_options(
    *,
    reading: str,
    beta: float,
    lambda_prompt: float,
    lambda_token: float,
    max_iter: int,
    tol: float,
    gradient: str,
    hierarchical: bool,
    keep_plans: bool,
    max_elements: int,
    engine: str,
) -> None:
    """Raise one clear line unless the settings of ``hierarchical_ot`` are allowed, by themselves and together."""
    check_choice("reading", reading, READINGS)
    check_number("beta", beta, minimum=0.0)
    check_solver(lam=lambda_prompt, max_iter=max_iter, tol=tol, gradient=gradient, lam_name="lambda_prompt")
    check_number("lambda_token", lambda_token, minimum=0.0, strict=True)
    for name, flag in (("hierarchical", hierarchical), ("keep_plans", keep_plans)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} is {flag!r} ({type(flag).__name__}); allowed: True or False")
    check_count("max_elements", max_elements)
    check_choice("engine", engine, ENGINES)
    if engine == "triton" and reading == "released":
        raise ValueError(
            "engine is 'triton' with reading 'released', whose groups stop together; allowed: 'torch', 'auto'"
        )
    if engine == "triton" and gradient == "unrolled":
        raise ValueError(
            "engine is 'triton' with gradient 'unrolled', which records the iterations; allowed: 'torch', 'auto'"
        )
    if reading == "released" and gradient != "envelope":
        raise ValueError(
            f"gradient is {gradient!r} with reading 'released'; allowed: 'envelope' (its plans take no gradient), "
            "or 'unrolled' with reading 'paper'"
        )


def check_scale(logit_scale: float | Tensor) -> float | Tensor:
    """Return a positive number as it is, a tensor of one element as a scalar of float32 or better."""
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
