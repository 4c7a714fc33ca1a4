"""Tables and targets of docs/benchmarks.md, out of the JSON files in ``scripts/bench/results/``.

python -m scripts.bench.report             # prints them in Markdown
python -m scripts.bench.report --write     # puts them into docs/benchmarks.md, between its markers
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from scripts.bench.running import PROJECT, RESULTS, Case

PAGE = PROJECT / "docs" / "benchmarks.md"
SAME = ("file", "classes", "prompts", "images", "backbone", "device", "precision", "threads")
ENDS = ("of ceiling, GFLOP/s", "% of time in products / attention / rest")
MARK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Table(NamedTuple):
    """Headers and rows of text."""

    headers: Sequence[str]
    rows: list[list[str]]


def terminal(table: Table) -> str:
    """Return a table for a terminal."""
    return "\n" + tabulate(table.rows, table.headers, disable_numparse=True) + "\n"


def markdown(table: Table) -> str:
    """Return a table in Markdown; of no rows, that nothing was measured."""
    if not table.rows:
        return "Not measured.\n"
    return tabulate(table.rows, table.headers, tablefmt="github", disable_numparse=True) + "\n"


def shown(value: Any, digits: int = 2) -> str:
    """Return a number with ``digits`` digits after the point (from 100 on without), a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.{0 if isinstance(value, int) or value >= 100 else digits}f}"


def measured(case: Case | None) -> bool:
    """Say whether there is such a case and it has times."""
    return case is not None and "seconds" in case


def pairs(results: Iterable[Case]) -> list[tuple[Case, Case | None]]:
    """Return each case of ours with the naive one of the same sizes in the same file, if there is one.

    Raises:
        ValueError: a case was measured twice.
    """
    cases = list(results)
    seen: dict[tuple[Any, ...], Case] = {}
    for case in cases:
        key = (*(case.get(k) for k in SAME[1:]), case["path"], case.get("max_memory_gb"))
        if key in seen:
            where = " and in ".join(dict.fromkeys(str(one.get("file")) for one in (seen[key], case)))
            size = f"K = {case['classes']}, M = N = {case['prompts']}, B = {case['images']}, {case['path']}"
            raise ValueError(f"{size}: measured twice, in {where}; a case belongs in one file, once")
        seen[key] = case
    naive = {tuple(c.get(k) for k in SAME): c for c in cases if c["path"] == "naive"}
    # A case that failed knows only how many threads it asked for: 0.
    found = []
    for case in cases:
        if case["path"] == "ours":
            key = tuple(case.get(k) for k in SAME)
            found.append((case, naive.get(key) or naive.get((*key[:-1], 0))))
    return found


def ratio(naive: Case | None, ours: Case, key: str = "seconds") -> float | None:
    """Return how many times the naive path takes what ours takes; of memory ours is what it holds in all steps."""
    own = "peak_gb" if key == "peak_first_gb" else key
    return naive[key] / ours[own] if measured(naive) and measured(ours) else None


def timed(case: Case) -> str:
    """Return the median of a case's seconds and, of several runs, their range."""
    wide = f" ({shown(case['fastest'])} to {shown(case['slowest'])})" if case.get("repeats", 1) > 1 else ""
    return shown(case["seconds"]) + wide


def spent(case: Case) -> str:
    """Return the shares of a case's time, in percent; a dash where they were not measured."""
    shares = case.get("spent_on")
    return " / ".join(f"{100 * shares[kind]:.0f}" for kind in ("products", "attention", "rest")) if shares else "-"


def why_not(case: Case | None) -> str:
    """Return why a case has no times."""
    return "not run" if case is None else str(case.get("left_out") or case.get("failed"))


def of_case(case: Case) -> list[str]:
    """Return the columns that say which case a row is of."""
    where = f"{case['threads']} threads" if case["device"] == "cpu" else case["device"]
    set_by_hand = ", MALLOC_ set" if case.get("malloc") else ""
    where = f"{where}, {case['precision']}{set_by_hand}"
    return [str(case["classes"]), str(case["prompts"]), str(case["images"]), where]


def towers(results: Iterable[Case], headers: Sequence[str], row: Callable[[Case, Case | None], list[str]]) -> Table:
    """Return a table of a benchmark of the towers: a line each case of ours; ``row`` gives the columns of its own."""
    rows = []
    for ours, naive in pairs(results):
        cells = row(ours, naive) if measured(ours) else [why_not(ours)] + [""] * (len(headers) - 1)
        rows.append(of_case(ours) + cells)
    return Table(["K", "M = N", "B", "on", *headers], rows)


def step_table(results: Iterable[Case]) -> Table:
    """Return the table of the training step."""

    def row(ours: Case, naive: Case | None) -> list[str]:
        there = measured(naive)
        text, vision = ours["positions"]["text"], ours["positions"]["vision"]
        return [
            timed(ours),
            timed(naive) if naive and there else why_not(naive),
            shown(ratio(naive, ours)),
            f"{ours['max_memory_gb']:g} / {shown(ours['predicted_gb'])} / {shown(ours['peak_gb'])}",
            f"{shown(naive['peak_first_gb'])} / {shown(naive['peak_gb'])}" if naive and there else "-",
            " / ".join(shown(ratio(naive, ours, key)) for key in ("peak_first_gb", "peak_gb")) if there else "-",
            f"{text:,} / {vision:,}",
            f"{naive['positions']['text']:,} / {naive['positions']['vision']:,}" if naive and there else "-",
            shown(ours["flops"] / 1e12),
            f"{100 * ours['share_of_ceiling']:.0f} % of {shown(ours['ceiling_gflops'])}",
            spent(ours),
        ]

    headers = [
        "s",
        "naive, s",
        "x faster",
        "GB allowed / predicted / peak",
        "naive, GB, first step / all",
        "x less",
        "positions text / vision",
    ]
    return towers(results, [*headers, "naive", "TFLOP", *ENDS], row)


def eval_table(results: Iterable[Case]) -> Table:
    """Return the table of the evaluation."""

    def row(ours: Case, naive: Case | None) -> list[str]:
        there = measured(naive)
        return [
            shown(ours["images_per_second"]),
            shown(naive["images_per_second"], 3) if naive and there else why_not(naive),
            shown(ratio(naive, ours)),
            timed(ours),
            timed(naive) if naive and there else why_not(naive),
            shown(ours["first_batch_seconds"]),
            f"{shown(ours['peak_gb'])} / {shown(naive['peak_gb'] if naive and there else None)}",
            f"{100 * ours['share_of_ceiling']:.0f} % of {shown(ours['ceiling_gflops'])}",
            spent(ours),
        ]

    headers = ["images / s", "naive", "x faster", "s a batch", "naive, s", "first batch, s", "GB, ours / naive"]
    return towers(results, [*headers, *ENDS], row)


def ot_table(results: Iterable[Case]) -> Table:
    """Return the table of the transport: problems a second of ours, and by how much it is faster than each peer."""
    cases = list(results)
    names = list(dict.fromkeys(name for c in cases for name in c["solvers"] if name != "ours"))
    rows = []
    for case in cases:
        where = str(case["threads"]) if case["device"] == "cpu" else case["device"]
        size = [f"{case['rows']} x {case['cols']}", str(case["iterations"]), where]
        found = case["solvers"] if isinstance(case["solvers"], dict) else {}  # a list where it was not measured
        ours = shown(found["ours"]["problems_per_second"]) if found else why_not(case)
        rows.append([*size, ours, *(shown(found.get(n, {}).get("ours_is_faster_by")) for n in names)])
    return Table(["J x L", "iterations", "threads", "ours, problems / s", *(f"x {name}" for name in names)], rows)


def count_table(results: Iterable[Case]) -> Table:
    """Return the table of what is counted."""
    rows = []
    for case in results:
        at_once, classes = case["classes_at_once"], case["classes"]
        how = case["path"] if at_once == classes else f"{case['path']}, {at_once} classes at once"
        run = [f"{case['positions'][tower]:,}" for tower in ("text", "vision")]
        counted = [shown(case[key]) for key in ("tflops", "kept_gb", "tflops_scoring")]
        rows.append([str(classes), str(case["prompts"]), how, *run, *counted])
    headers = ["K", "M = N", "path", "text positions", "image positions"]
    return Table([*headers, "TFLOP a step", "GB kept for backward", "TFLOP a batch of an evaluation"], rows)


def load(kind: str, folder: Path = RESULTS) -> list[Case]:
    """Return the results in all files of one benchmark, such as ``step.json`` and ``step-gpu.json``."""
    files = sorted(folder.glob(f"{kind}.json")) + sorted(folder.glob(f"{kind}-*.json"))
    found = [{"file": file.name, **case} for file in files for case in json.loads(file.read_text())["results"]]
    for case in found:
        if case.get("repeats") == 1 and "peak_gb" in case:
            case.setdefault("peak_first_gb", case["peak_gb"])  # of files of before it was recorded
    return found


class Target(NamedTuple):
    """What is to be reached: ``value`` of the cases that fit, on the right side of ``bound``; ``beyond``: not on it."""

    text: str
    value: float | None
    bound: float
    least: bool = True
    beyond: bool = False

    def row(self) -> list[str]:
        """Return the line of the table."""
        if self.value is None:
            return [self.text, "not measured", "-"]
        met = self.value >= self.bound if self.least else self.value <= self.bound
        met = met and not (self.beyond and self.value == self.bound)
        return [self.text, shown(self.value), "met" if met else "**not met**"]


def targets(folder: Path = RESULTS) -> list[Target]:
    """Return the targets with what the files in ``folder`` say of them."""

    def of(kind: str, **sizes: Any) -> list[tuple[Case, Case | None]]:
        sizes = {"prompts": 4, "images": 4, "device": "cpu", "precision": "fp32", **sizes}
        return [pair for pair in pairs(load(kind, folder)) if all(pair[0][k] == v for k, v in sizes.items())]

    def least(values: Iterable[float | None]) -> float | None:
        return min((v for v in values if v is not None), default=None)

    def faster(kind: str, classes: int, key: str = "seconds", **sizes: Any) -> float | None:
        return least(ratio(naive, ours, key) for ours, naive in of(kind, classes=classes, **sizes))

    solved = [c for c in load("ot", folder) if isinstance(c["solvers"], dict)]
    cpu, gpu = ([c for c in solved if c["device"] == device] for device in ("cpu", "cuda"))
    sizes = [c for c in cpu if (c["rows"], c["cols"], c["iterations"], c["problems"]) == (198, 8, 100, 3200)]

    def by(cases: list[Case], start: str) -> list[float]:
        return [r["ours_is_faster_by"] for c in cases for n, r in c["solvers"].items() if n.startswith(start)]

    thousand = [o["peak_gb"] for o, _ in of("step", classes=1000) if measured(o) and o["max_memory_gb"] <= 8]
    on_gpu = [o for o, _ in of("step", classes=100, device="cuda", precision="bf16") if measured(o)]
    many = [o for o, _ in of("eval", classes=1000, images=100, device="cuda", precision="bf16") if measured(o)]
    kernel = by(gpu, "ours, Triton")
    return [
        *(
            Target(
                f"training step, K = 50, {most:g} GB allowed: {what}",
                faster("step", 50, key, max_memory_gb=most),
                bound,
            )
            for most in sorted({ours["max_memory_gb"] for ours, _ in of("step", classes=50)}, reverse=True) or [8.0]
            for what, key, bound in (
                ("at least 5 x faster than naive", "seconds", 5.0),
                ("at most 1/4 of its memory in one step (x less)", "peak_first_gb", 4.0),
                ("at most 1/4 of its memory in all steps (x less)", "peak_gb", 4.0),
            )
        ),
        Target("training step, K = 100: at least 8 x faster", faster("step", 100), 8),
        Target("evaluation, K = 50: at least 8 x faster", faster("eval", 50), 8),
        Target("evaluation, K = 500: at least 50 x faster", faster("eval", 500), 50),
        Target("transport, 198 x 8, 100 iterations: 3 x the plain batched loop", least(by(sizes, "plain")), 3),
        Target("transport: ahead of POT at every size (least ratio)", least(by(cpu, "POT")), 1, beyond=True),
        Target("training step, K = 1000, N = 4: within 8 GB", max(thousand, default=None), 8, False),
        Target(
            "GPU, step, K = 100, bf16: at most 3 x the time of its FLOPs",
            max((1 / o["share_of_ceiling"] for o in on_gpu), default=None),
            3,
            False,
        ),
        Target(
            "GPU, evaluation of 100 images against 1000 classes: seconds, below 1",
            max((o["seconds"] for o in many), default=None),
            1,
            False,
        ),
        Target("GPU, Triton kernel: at least 5 x the torch path", least(1 / v for v in kernel if v), 5),
    ]


def about(folder: Path = RESULTS) -> str:
    """Return what the files were measured on, of which commit, and by which command."""
    lines: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.json")):
        read = json.loads(file.read_text())
        made = read.get("machine")
        if made is None:
            continue
        loads = [x for case in read["results"] for x in case.get("load", [])]
        busy = f", load {min(loads):.1f} to {max(loads):.1f}" if loads else ""
        chip = made["gpu"] or f"{made['cpu']}, {made['cores']} cores, {made['capability']}"
        packages = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
        on = f"{chip}; Python {made['python']}, {packages}"
        of = f"commit {read.get('commit', 'not recorded')}{busy}"
        lines.setdefault(on, []).append(f"- `{file.name}` ({of}): `{read.get('command', 'not recorded')}`\n")
    return "".join(f"{on}:\n\n{''.join(files)}" for on, files in lines.items()) or "Not measured.\n"


def parts(folder: Path = RESULTS) -> dict[str, str]:
    """Return marker -> Markdown."""
    return {
        "machine": about(folder),
        "targets": markdown(Table(["target", "measured", ""], [target.row() for target in targets(folder)])),
        "step": markdown(step_table(load("step", folder))),
        "eval": markdown(eval_table(load("eval", folder))),
        "count": markdown(count_table(load("count", folder))),
        "ot": markdown(ot_table(load("ot", folder))),
    }


def filled(page: str, folder: Path = RESULTS) -> str:
    """Return a page with what stands between its markers made anew."""
    made = parts(folder)
    return MARK.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n{found[3]}", page)


def main() -> None:
    """Print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    write = parser.parse_args().write
    try:
        if write:
            PAGE.write_text(filled(PAGE.read_text()))
            return
        for name, text in parts().items():
            sys.stdout.write(f"\n### {name}\n\n{text}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
