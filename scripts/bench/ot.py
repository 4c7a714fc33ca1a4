"""Problems per second of the Sinkhorn solver against POT, geomloss, a plain batched loop and one problem after another.

All solve the same float32 costs with lambda = 0.1 for the same number of iterations (no early stop), and take turns in
one process, so that each ratio is of one run; ``ours, tol 1e-2`` is the head's own setting, where problems stop by
themselves. JSON goes to ``scripts/bench/results/``.

    python -m scripts.bench.ot            # all sizes
    python -m scripts.bench.ot --short    # in two minutes
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prompting.ot import sinkhorn
from scripts.bench.common import RESULTS, Times, machine, seconds, summary

LAM = 0.1
NAIVE_PROBLEMS = 50  # of the loop over problems, whose time is their number's


def plain_loop(cost: Tensor, iterations: int) -> Tensor:
    """All problems at once, r = u / (K c), c = v / (K' r): what most batched implementations do."""
    kernel = torch.exp(-cost / LAM)
    rows, cols = cost.shape[1:]
    c = torch.ones(len(cost), cols)
    for _ in range(iterations):
        r = (1 / rows) / torch.einsum("pjl,pl->pj", kernel, c)
        c = (1 / cols) / torch.einsum("pjl,pj->pl", kernel, r)
    return torch.einsum("pj,pjl,pl,pjl->p", r, kernel, c, cost)


def one_by_one(cost: Tensor, iterations: int) -> Tensor:
    """A loop over problems."""
    return torch.cat([plain_loop(part[None], iterations) for part in cost])


def by_pot(cost: Tensor, iterations: int, method: str) -> Tensor:
    """POT's batched solver."""
    import ot

    return ot.solve_batch(cost, reg=LAM, max_iter=iterations, tol=0.0, method=method, grad="detach").value_linear


def by_geomloss(cost: Tensor, iterations: int) -> Tensor:
    """geomloss's loop over costs that are given, without annealing and without its debiasing terms; a log domain."""
    from geomloss._legacy.sinkhorn_divergence import sinkhorn_loop
    from geomloss._legacy.sinkhorn_samples import softmin_tensorized

    logs = [torch.full((len(cost), n), 1.0 / n).log() for n in cost.shape[1:]]
    across = cost.mT.contiguous()
    steps = [LAM] * iterations
    f, g = sinkhorn_loop(
        softmin_tensorized, *([x] for x in logs), None, None, [cost], [across], steps, None, debias=False
    )[2:]
    return f.mean(-1) + g.mean(-1)


def solvers(iterations: int) -> dict[str, tuple[Callable[[Tensor], Tensor], int | None]]:
    """Return name -> (solver, how many problems it is given; None: all)."""

    def ours(cost: Tensor, tol: float = 0.0) -> Tensor:
        return sinkhorn(cost, lam=LAM, max_iter=iterations, tol=tol, keep_plan=False).distance

    return {
        "ours": (ours, None),
        "ours, tol 1e-2": (lambda cost: ours(cost, 1e-2), None),
        "plain batched loop": (lambda cost: plain_loop(cost, iterations), None),
        "POT sinkhorn": (lambda cost: by_pot(cost, iterations, "sinkhorn"), None),
        "POT log_sinkhorn": (lambda cost: by_pot(cost, iterations, "log_sinkhorn"), None),
        "geomloss": (lambda cost: by_geomloss(cost, iterations), None),
        "one by one": (lambda cost: one_by_one(cost, iterations), NAIVE_PROBLEMS),
    }


def token_costs(problems: int, rows: int, cols: int, width: int = 64) -> Tensor:
    """Costs 1 - cos of random features with a common part, as tokens of one image have."""
    stream = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 1, width, generator=stream)
    r, s = (torch.randn(problems, n, width, generator=stream) + shared for n in (rows, cols))
    return 1.0 - torch.nn.functional.normalize(r, dim=-1) @ torch.nn.functional.normalize(s, dim=-1).mT


def measure(problems: int, rows: int, cols: int, iterations: int, repeat: int, names: list[str]) -> dict[str, Any]:
    """Time all solvers in turns on one size."""
    cost = token_costs(problems, rows, cols)
    chosen = {name: solver for name, solver in solvers(iterations).items() if name in names}
    times: dict[str, list[Times]] = {name: [] for name in chosen}
    values = {name: solve(cost[:number]) for name, (solve, number) in chosen.items()}  # warms up too
    for _ in range(repeat):
        for name, (solve, number) in chosen.items():
            part = cost[:number]
            times[name] += seconds(lambda solve=solve, part=part: solve(part), 1)
    found: dict[str, Any] = {"problems": problems, "rows": rows, "cols": cols, "iterations": iterations}
    found["load"] = round(os.getloadavg()[0], 1)
    for name, (_, number) in chosen.items():
        row = summary(times[name])
        row["problems"] = number or problems
        for kind in ("seconds", "fastest", "cpu_seconds"):
            row[kind] = float(f"{row[kind]:.4g}")
        row["problems_per_second"] = round(row["problems"] / max(row["seconds"], 1e-9))
        reference = values["plain batched loop"][: row["problems"]]
        row["largest_difference"] = float(f"{float((values[name] - reference).abs().max()):.2g}")
        found[name] = row
    for name in chosen:
        rate = found["ours"]["problems_per_second"] / found[name]["problems_per_second"]
        found[name]["ours_is_faster_by"] = round(rate, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=3200)
    parser.add_argument("--sizes", type=int, nargs=2, action="append", metavar=("J", "L"), help="may be repeated")
    parser.add_argument("--iterations", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--solvers", nargs="*", choices=list(solvers(1)), default=list(solvers(1)), help="besides ours")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="800 problems of two sizes, three repeats")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    sizes = args.sizes or [(198, 8), (198, 20), (51, 8), (8, 8), (4, 4)]
    if args.short:
        args.problems, args.repeat, args.iterations, sizes = 800, 3, [5, 100], args.sizes or [(198, 8), (51, 8)]
    out = args.out or RESULTS / ("ot-short.json" if args.short else f"ot-cpu-{torch.get_num_threads()}.json")
    results = []
    for rows, cols in sizes:
        for iterations in args.iterations:
            results.append(
                measure(
                    args.problems, rows, cols, iterations, args.repeat, ["ours", "plain batched loop", *args.solvers]
                )
            )
            sys.stdout.write(json.dumps(results[-1]) + "\n")
            sys.stdout.flush()
            out.parent.mkdir(parents=True, exist_ok=True)
            about = {**machine(), "threads": torch.get_num_threads()}
            out.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
