"""Problems per second of the Sinkhorn solver against POT, geomloss, a plain batched loop and one problem after another.

All solve the same float32 costs with lambda = 0.1 for the same number of iterations (no early stop), and take turns in
one process for at least ten seconds, so that each ratio is of one run; ``ours, tol 1e-2`` is the head's own setting,
where problems stop by themselves. The slow ones are given fewer problems (``problems`` in the results); rates are
compared.

    python -m scripts.bench.ot                  # all sizes and iterations
    python -m scripts.bench.ot --threads 1 --out ...
    python -m scripts.bench.ot --device cuda --out ...        # the Triton kernel against the torch path
    python -m scripts.bench.ot --sizes 198 8 --iterations 100 --solvers --block-mib 0.5 1 2 4 --out ...
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prompting.ot import sinkhorn, solve
from scripts.bench import report
from scripts.bench.measuring import Times, seconds, summary
from scripts.bench.running import RESULTS, run_cases

LAM = 0.1
FEWER = {"one by one": 50, "geomloss": 400, "POT log_sinkhorn": 400}  # problems of the slow ones


def plain_loop(cost: Tensor, iterations: int) -> Tensor:
    """All problems at once, r = u / (K c), c = v / (K' r): what most batched implementations do."""
    kernel = torch.exp(-cost / LAM)
    rows, cols = cost.shape[1:]
    c = cost.new_ones(len(cost), cols)
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
    """geomloss's loop over given costs, log domain, no annealing, no debiasing: <plan, cost> + lambda KL."""
    from geomloss._legacy.sinkhorn_divergence import sinkhorn_loop
    from geomloss._legacy.sinkhorn_samples import softmin_tensorized

    logs = [cost.new_full((len(cost), n), 1.0 / n).log() for n in cost.shape[1:]]
    across = cost.mT.contiguous()
    steps = [LAM] * iterations
    f, g = sinkhorn_loop(
        softmin_tensorized, *([x] for x in logs), None, None, [cost], [across], steps, None, debias=False
    )[2:]
    return f.mean(-1) + g.mean(-1)


def solvers(iterations: int, device: str = "cpu") -> dict[str, Callable[[Tensor], Tensor]]:
    """Return name -> solver."""

    def ours(cost: Tensor, **options: Any) -> Tensor:
        options = {"tol": 0.0, "keep_plan": False, **options}
        return sinkhorn(cost, lam=LAM, max_iter=iterations, **options).distance

    found = {
        "ours": ours,
        "ours, tol 1e-2": lambda cost: ours(cost, tol=1e-2),
        "ours, Triton": lambda cost: ours(cost, engine="triton"),
        "plain batched loop": lambda cost: plain_loop(cost, iterations),
        "POT sinkhorn": lambda cost: by_pot(cost, iterations, "sinkhorn"),
        "POT log_sinkhorn": lambda cost: by_pot(cost, iterations, "log_sinkhorn"),
        "geomloss": lambda cost: by_geomloss(cost, iterations),
        "one by one": lambda cost: one_by_one(cost, iterations),
    }
    return {name: run for name, run in found.items() if device != "cpu" or name != "ours, Triton"}


def token_costs(problems: int, rows: int, cols: int, width: int = 64) -> Tensor:
    """Costs 1 - cos of random features with a common part, as tokens of one image have."""
    stream = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 1, width, generator=stream)
    r, s = (torch.randn(problems, n, width, generator=stream) + shared for n in (rows, cols))
    return 1.0 - torch.nn.functional.normalize(r, dim=-1) @ torch.nn.functional.normalize(s, dim=-1).mT


def in_blocks(run: Callable[[Tensor], Tensor], mib: float) -> Callable[[Tensor], Tensor]:
    """Return ``run`` with blocks of ``mib`` MiB a thread."""

    def solved(cost: Tensor) -> Tensor:
        usual, solve.CACHE_BYTES = solve.CACHE_BYTES, int(mib * 2**20)
        try:
            return run(cost)
        finally:
            solve.CACHE_BYTES = usual

    return solved


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Time all solvers in turns on one size."""
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    cost = token_costs(case["problems"], case["rows"], case["cols"]).to(case["device"])
    known = solvers(case["iterations"], case["device"])
    chosen = {name: known[name] for name in case["solvers"]}
    chosen.update({f"ours, blocks of {mib:g} MiB": in_blocks(known["ours"], mib) for mib in case["block_mib"]})
    parts = {name: cost[: FEWER.get(name, len(cost))] for name in chosen}
    times: dict[str, list[Times]] = {name: [] for name in chosen}
    values = {name: run(parts[name]) for name, run in chosen.items()}  # warms up too
    begun = time.monotonic()
    while len(times["ours"]) < case["repeat"] or time.monotonic() - begun < case["at_least"]:
        for name, run in chosen.items():
            times[name] += seconds(lambda run=run, part=parts[name]: run(part), 1)
    rows: dict[str, Any] = {}
    rates: dict[str, float] = {}
    for name in chosen:
        row = {**summary(times[name]), "problems": len(parts[name])}
        rate = row["problems"] / row["seconds"]
        rates[name], row["problems_per_second"] = rate, round(rate)
        if name != "geomloss":  # which returns the regularised value, not <plan, cost>
            difference = (values[name] - values["plain batched loop"][: row["problems"]]).abs().max()
            row["largest_difference"] = float(f"{float(difference):.2g}")
        rows[name] = row
        row["ours_is_faster_by"] = round(rates["ours"] / rate, 4)
    return {**case, "threads": torch.get_num_threads(), "solvers": rows}


def effort(case: dict[str, Any]) -> float:
    """Return roughly how long a case takes."""
    each = case["problems"] * case["rows"] * case["cols"] * (20 + case["iterations"])
    return 5 + max(case["at_least"], 2e-9 * each * (1 + case["repeat"]) * len(case["solvers"]))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--problems", type=int, default=3200)
    made.add_argument("--sizes", type=int, nargs=2, action="append", metavar=("J", "L"), help="may be repeated")
    made.add_argument("--iterations", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    made.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    made.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    made.add_argument("--solvers", nargs="*", choices=list(solvers(1, "cuda")), help="besides ours and the plain loop")
    made.add_argument("--block-mib", type=float, nargs="*", default=[], help="ours with these sizes of block too")
    made.add_argument("--repeat", type=int, default=5, help="turns at least")
    made.add_argument("--at-least", type=float, default=10.0, metavar="SECONDS", help="how long turns go on at least")
    made.add_argument("--out", type=Path, default=RESULTS / "ot.json")
    made.add_argument("--case", help=argparse.SUPPRESS)
    return made


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the cases that the arguments ask for."""
    sizes = args.sizes or [(198, 8), (198, 20), (51, 8), (8, 8), (4, 4)]
    others = list(solvers(1, args.device)) if args.solvers is None else args.solvers
    first = ["ours", "plain batched loop"]
    shared = {key: getattr(args, key) for key in ("problems", "device", "threads", "repeat", "at_least", "block_mib")}
    shared["solvers"] = first + [name for name in others if name not in first]
    return [{"rows": j, "cols": l, "iterations": n, **shared} for j, l in sizes for n in args.iterations]  # noqa: E741


def main() -> None:
    """Measure the cases asked for, one process each."""
    args = parser().parse_args()
    if args.case:
        sys.stdout.write(json.dumps(measure(json.loads(args.case))) + "\n")
        return
    results = run_cases("scripts.bench.ot", cases(args), effort, args.out)
    sys.stdout.write(report.terminal(report.ot_table(results)))


if __name__ == "__main__":
    main()
