"""Settings of the solver and of the head, validated on construction."""

from dataclasses import dataclass

from .checks import check_choice, check_count, check_number

GRADIENTS = ("envelope", "unrolled")
READINGS = ("paper", "released")
SCALINGS = ("auto", "kernel", "log")
STOPS = ("marginal", "change")


@dataclass(frozen=True, kw_only=True)
class IterationSettings:
    """Settings that the solver and the head have in common.

    Args:
        max_iter: largest number of iterations, >= 1.
        tol: tolerance of the stop rule, >= 0; 0 runs all ``max_iter`` iterations.
        gradient: ``envelope``: the plan is a constant, d distance / d cost = plan, which is exact at the optimum for
            the regularised value; ``unrolled``: autograd runs through all iterations.

    Raises:
        TypeError, ValueError: one line with the value found and the values allowed.
    """

    max_iter: int = 100
    tol: float = 1e-2
    gradient: str = "envelope"

    def __post_init__(self) -> None:
        check_count("max_iter", self.max_iter)
        check_number("tol", self.tol, minimum=0.0)
        check_choice("gradient", self.gradient, GRADIENTS)


@dataclass(frozen=True, kw_only=True)
class SinkhornSettings(IterationSettings):
    """Settings of ``sinkhorn``, in addition to those of ``IterationSettings``.

    Args:
        lam: entropy weight lambda, > 0.
        scaling: ``kernel`` iterates r and c with exp(-cost / lam), each row shifted by its minimum; ``log`` iterates
            log r and log c, which is slower and never underflows; ``auto`` takes ``kernel`` for each problem whose
            shifted cost is at most 40 lam, and ``log`` for the others.
        stop: ``marginal``: a problem stops when the row sums of its plan are within ``tol`` of 1/J in L1. ``change``: a
            group of problems stops after the iteration in which mean |r - r_before| < ``tol`` over the valid rows of
            the group, with r = 1 at the start. A stopped problem keeps its plan.
        group_dims: for ``change``, the number of trailing batch dimensions that form a group; 0 makes each problem a
            group.
    """

    lam: float
    scaling: str = "auto"
    stop: str = "marginal"
    group_dims: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("lam", self.lam, minimum=0.0, strict=True)
        check_choice("scaling", self.scaling, SCALINGS)
        check_choice("stop", self.stop, STOPS)
        check_count("group_dims", self.group_dims, minimum=0)
        if self.group_dims and self.stop != "change":
            raise ValueError(f"group_dims is {self.group_dims} with stop {self.stop!r}; allowed: 0, or stop 'change'")


@dataclass(frozen=True, kw_only=True)
class HeadSettings(IterationSettings):
    """Settings of the head, in addition to those of ``IterationSettings``, which hold for both levels.

    Args:
        reading: ``paper`` (Eqs. 4 to 7) or ``released`` (the authors' code); see ``hierarchical_ot``.
        beta: weight of the token-level distance, >= 0; 0 leaves the token level out.
        lambda_prompt: entropy weight of the prompt level, > 0.
        lambda_token: entropy weight of the token level, > 0.
        hierarchical: False leaves the token level out.
        max_elements: largest number of token costs in memory at once, >= 1. The B K M N J L costs are solved in chunks
            of images and classes, with the same result; the smallest chunk is one (image, class) pair. On a CPU a
            chunk has at most 4 MiB per thread, so that it stays in the cache.
    """

    reading: str = "paper"
    beta: float = 1.0
    lambda_prompt: float = 0.1
    lambda_token: float = 0.1
    hierarchical: bool = True
    max_elements: int = 2**26

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reading", self.reading, READINGS)
        check_number("beta", self.beta, minimum=0.0)
        check_number("lambda_prompt", self.lambda_prompt, minimum=0.0, strict=True)
        check_number("lambda_token", self.lambda_token, minimum=0.0, strict=True)
        if not isinstance(self.hierarchical, bool):
            raise TypeError(
                f"hierarchical is {self.hierarchical!r} ({type(self.hierarchical).__name__}); allowed: True or False"
            )
        check_count("max_elements", self.max_elements)
        if self.reading == "released" and self.gradient != "envelope":
            raise ValueError(
                f"gradient is {self.gradient!r} with reading 'released', whose plans take no gradient; "
                "allowed: 'envelope', or reading 'paper'"
            )

    @property
    def uses_tokens(self) -> bool:
        """Whether the score has a token level."""
        return self.hierarchical and self.beta > 0

    def solver(self, lam: float) -> SinkhornSettings:
        """Return the settings of the level with entropy weight ``lam``.

        In ``released`` the groups are the M N problems of one (image, class) pair at the token level, whose batch is
        (B, K, M, N), and the whole batch (B, K) at the prompt level: two trailing dimensions either way.
        """
        stop, group_dims = ("change", 2) if self.reading == "released" else ("marginal", 0)
        return SinkhornSettings(
            lam=lam, max_iter=self.max_iter, tol=self.tol, gradient=self.gradient, stop=stop, group_dims=group_dims
        )
