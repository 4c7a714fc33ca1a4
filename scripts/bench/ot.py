"""Problems per second of the Sinkhorn solver against POT, a plain batched loop and one problem at a time.

All solve the same float32 costs with lambda = 0.1 for the same number of iterations (no early stop), and take turns in
one process, so that ratios are of one run; "ours, tol 1e-2" is the head's setting, where problems stop early. Slow
solvers are given fewer problems, and rates are compared.

    python -m scripts.bench.ot
    python -m scripts.bench.ot --device cuda --solvers "plain batched loop" "POT log_sinkhorn" "one by one"
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from dassl.utils.command import Parser, command
from torch import Tensor

from prompting import ot as head
from scripts.bench.measure import seconds
from scripts.bench.running import add_common, run_cases

LAM = 0.1
FEWER = {"one by one": 50, "POT log_sinkhorn": 400}  # problems of the slow solvers


def ours(cost: Tensor, iterations: int, tol: float = 0.0) -> Tensor:
    """Return <plan, cost> by this project's solver."""
    settings = head.SinkhornSettings(lam=LAM, max_iter=iterations, tol=tol)
    return head.sinkhorn(cost, settings, return_plan=False).distance


def plain_loop(cost: Tensor, iterations: int) -> Tensor:
    """Return <plan, cost> by r = u / (K c), c = v / (K' r) on all problems at once, the usual batched loop."""
    kernel = torch.exp(-cost / LAM)
    rows, cols = cost.shape[1:]
    c = cost.new_ones(len(cost), cols)
    for _ in range(iterations):
        r = (1 / rows) / torch.einsum("pjl,pl->pj", kernel, c)
        c = (1 / cols) / torch.einsum("pjl,pj->pl", kernel, r)
    return torch.einsum("pj,pjl,pl,pjl->p", r, kernel, c, cost)


def by_pot(cost: Tensor, iterations: int, method: str) -> Tensor:
    """Return <plan, cost> by POT's batched solver."""
    import ot

    return ot.solve_batch(cost, reg=LAM, max_iter=iterations, tol=0.0, method=method, grad="detach").value_linear


def solvers(iterations: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return name -> solver, this project's first."""
    return {
        "ours": lambda cost: ours(cost, iterations),
        "ours, tol 1e-2": lambda cost: ours(cost, iterations, 1e-2),
        "plain batched loop": lambda cost: plain_loop(cost, iterations),
        "POT sinkhorn": lambda cost: by_pot(cost, iterations, "sinkhorn"),
        "POT log_sinkhorn": lambda cost: by_pot(cost, iterations, "log_sinkhorn"),
        "one by one": lambda cost: torch.cat([plain_loop(part[None], iterations) for part in cost]),
    }


def token_costs(problems: int, rows: int, cols: int, width: int = 64) -> Tensor:
    """Return costs 1 - cos of random features with a common part, as tokens of one image have."""
    stream = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 1, width, generator=stream)
    r, s = (torch.randn(problems, n, width, generator=stream) + shared for n in (rows, cols))
    return 1.0 - torch.nn.functional.normalize(r, dim=-1) @ torch.nn.functional.normalize(s, dim=-1).mT


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Return a case with the times of every solver, in turns, for at least ``at_least`` seconds."""
    cost = token_costs(case["problems"], *case["size"]).to(case["device"])
    parts = {name: cost[: FEWER.get(name, len(cost))] for name in case["solvers"]}
    calls = {name: partial(solvers(case["iterations"])[name], part) for name, part in parts.items()}
    for call in calls.values():  # warm up
        call()
    turns: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.monotonic()
    while len(turns["ours"]) < 3 or time.monotonic() - begun < case["at_least"]:
        for name, call in calls.items():
            turns[name].append(seconds(call, 1)["seconds"])
    rates = {name: len(parts[name]) / sorted(times)[len(times) // 2] for name, times in turns.items()}
    faster = {name: round(rates["ours"] / rate, 3) for name, rate in rates.items()}
    return {**case, "problems_per_second": {k: round(v) for k, v in rates.items()}, "ours_is_faster_by": faster}


@command("ot")
def main(words: Sequence[str]) -> None:
    """Measure all cases; print the rates, and by which factor this project's solver is faster than each other one."""
    parser = Parser(prog="ot", doc=__doc__)
    add, sizes = parser.add_argument, [(198, 8), (198, 20), (51, 8), (8, 8), (4, 4)]
    add("--problems", type=int, default=3200, help="problems per call")
    add("--sizes", type=int, nargs=2, action="append", metavar=("J", "L"), help="sizes of a problem; may be repeated")
    add("--iterations", type=int, nargs="+", default=[5, 20, 100], help="of the solvers")
    add("--solvers", nargs="+", choices=list(solvers(1)), default=list(solvers(1)), help="what to compare")
    add("--at-least", type=float, default=10.0, metavar="SECONDS", help="length of all turns of a case")
    add_common(parser)
    args = parser.parse_args(words)
    shared = {key: getattr(args, key) for key in ("problems", "device", "threads", "at_least")}
    shared["solvers"] = list(dict.fromkeys(["ours", *args.solvers]))
    cases = [{"size": s, "iterations": n, **shared} for s in args.sizes or sizes for n in args.iterations]
    table = pd.json_normalize(run_cases(Path(__file__), cases, args.out, args.minutes))
    print(table.drop(columns=["solvers", "device", "threads", "at_least", "load"]).T.to_string())


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("{"):  # one case
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        sys.exit(main())
