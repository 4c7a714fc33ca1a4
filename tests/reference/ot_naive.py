"""The hierarchical OT head as plain loops over images, classes and pairs, to be checked by eye against the paper.

Everything is float64 numpy, without masks: the tokens of class k are given as they are, ``s[k][n]`` of shape (L_k, D).
Also generators of random problems for the tests of the head.
"""

import numpy as np
import torch


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarities of the rows of a (J, D) and b (L, D), (J, L)."""
    out = np.empty((len(a), len(b)))
    for j in range(len(a)):
        for i in range(len(b)):
            out[j, i] = a[j] @ b[i] / (np.linalg.norm(a[j]) * np.linalg.norm(b[i]))
    return out


def solve_one(cost: np.ndarray, lam: float, max_iter: int, tol: float) -> tuple[np.ndarray, int, bool]:
    """One problem with the `marginal` stop: (plan, iterations, converged)."""
    rows, cols = cost.shape
    kernel = np.exp(-cost / lam)
    c = np.ones(cols)
    for iteration in range(1, max_iter + 1):
        r = (1 / rows) / (kernel @ c)
        c = (1 / cols) / (kernel.T @ r)
        plan = r[:, None] * kernel * c[None, :]
        if np.abs(plan.sum(1) - 1 / rows).sum() <= tol:
            return plan, iteration, True
    return plan, max_iter, False


def solve_group(costs: list[np.ndarray], lam: float, max_iter: int, tol: float) -> tuple[list[np.ndarray], int, bool]:
    """Problems that stop together by the `change` rule: (plans, iterations, converged)."""
    kernels = [np.exp(-cost / lam) for cost in costs]
    r = [np.ones(k.shape[0]) for k in kernels]
    c = [np.ones(k.shape[1]) for k in kernels]
    iteration, stopped = 0, False
    while iteration < max_iter and not stopped:
        iteration += 1
        before = r
        r = [(1 / k.shape[0]) / (k @ ci) for k, ci in zip(kernels, c)]
        c = [(1 / k.shape[1]) / (k.T @ ri) for k, ri in zip(kernels, r)]
        stopped = np.mean(np.abs(np.concatenate(r) - np.concatenate(before))) < tol
    plans = [ri[:, None] * k * ci[None, :] for ri, k, ci in zip(r, kernels, c)]
    return plans, iteration, bool(stopped)


def paper(z, h, r, s, *, scale, beta, lambda_prompt, lambda_token, max_iter=100, tol=1e-2) -> dict[str, np.ndarray]:
    """Eq. 4 to 7 by loops: logits (B, K), cost (B, K, M, N), iterations of either level."""
    out = _empty(z, h)
    for b in range(len(z)):
        for k in range(len(h)):
            cost = 1 - cosine(z[b], h[k])
            for m in range(cost.shape[0]):
                for n in range(cost.shape[1]):
                    token_cost = 1 - cosine(r[b][m], s[k][n])
                    plan, out["token_iterations"][b, k, m, n], _ = solve_one(token_cost, lambda_token, max_iter, tol)
                    cost[m, n] += beta * (plan * token_cost).sum()
            plan, out["prompt_iterations"][b, k], _ = solve_one(cost, lambda_prompt, max_iter, tol)
            out["cost"][b, k] = cost
            out["logits"][b, k] = scale * (1 - (plan * cost).sum())
    return out


def released(z, h, r, s, *, scale, beta, lambda_prompt, lambda_token, max_iter=100, tol=1e-2) -> dict[str, np.ndarray]:
    """What the released code computes, by loops; the prompt level is one group over the whole batch."""
    out = _empty(z, h)
    for b in range(len(z)):
        for k in range(len(h)):
            pairs = [(m, n) for m in range(len(z[b])) for n in range(len(h[k]))]
            costs = [1 - cosine(r[b][m], s[k][n]) for m, n in pairs]
            plans, out["token_iterations"][b, k], _ = solve_group(costs, lambda_token, max_iter, tol)
            out["cost"][b, k] = 1 - cosine(z[b], h[k])
            for i, (m, n) in enumerate(pairs):
                out["cost"][b, k, m, n] += beta * (plans[i] * (1 - costs[i])).sum()
    cells = [(b, k) for b in range(len(z)) for k in range(len(h))]
    plans, iterations, _ = solve_group([out["cost"][cell] for cell in cells], lambda_prompt, max_iter, tol)
    out["prompt_iterations"][:] = iterations
    for i, (b, k) in enumerate(cells):
        out["logits"][b, k] = scale * (plans[i] * cosine(z[b], h[k])).sum()
    return out


def _empty(z, h) -> dict[str, np.ndarray]:
    grid, pairs = (len(z), len(h)), (len(z), len(h), len(z[0]), len(h[0]))
    return {
        "logits": np.zeros(grid),
        "cost": np.zeros(pairs),
        "token_iterations": np.zeros(pairs, dtype=int),
        "prompt_iterations": np.zeros(grid, dtype=int),
    }


def features(
    seed: int, *, images=2, classes=3, visual=3, text=2, rows=7, cols=5, width=6, dtype=torch.float64, common=0.0
) -> dict[str, torch.Tensor]:
    """Random z, h, r, s; ``common`` adds one shared direction, which brings the cosines near to each other."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "z": (images, visual, width),
        "h": (classes, text, width),
        "r": (images, visual, rows, width),
        "s": (classes, text, cols, width),
    }
    shared = torch.randn(width, generator=draw, dtype=torch.float64) * common
    return {n: (torch.randn(*x, generator=draw, dtype=torch.float64) + shared).to(dtype) for n, x in shapes.items()}


def lengths_mask(lengths: list[int], size: int) -> torch.Tensor:
    """(K, 1, size) bool, True on the first ``lengths[k]`` places."""
    return (torch.arange(size) < torch.tensor(lengths)[:, None])[:, None]


def ragged(tokens: torch.Tensor, lengths: list[int]) -> list[list[np.ndarray]]:
    """``tokens`` (K, N, L, D) as lists of arrays cut to each class's own length."""
    return [[tokens[k, n, : lengths[k]].double().numpy() for n in range(tokens.shape[1])] for k in range(len(lengths))]
