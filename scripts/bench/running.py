"""Runs the cases of a benchmark, each in a process of its own, with a progress bar; writes results after each."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.bench.measuring import machine

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "scripts" / "bench" / "results"
Case = dict[str, Any]


class Progress:
    """One bar over cases of different lengths, which shows how far it is and the time left.

    Args:
        total: the sum of the cases' efforts.
        minutes: cases are cut off, and the rest left out, when these are over; None for no limit.
    """

    def __init__(self, total: float, minutes: float | None = None) -> None:
        form = "{desc} {percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left"
        self.bar = tqdm(total=total, bar_format=form, dynamic_ncols=True)
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def left(self) -> float | None:
        """Return the seconds left, None for no limit."""
        return None if self.end is None else self.end - time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def command() -> str:
    """Return the command line that runs, behind what is set for the C library's memory."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    words = ["python", *(sys.argv[:1] if spec is None else ["-m", spec.name]), *sys.argv[1:]]
    return " ".join([f"{key}={shlex.quote(value)}" for key, value in malloc().items()] + [shlex.join(words)])


def malloc() -> dict[str, str]:
    """Return the environment's settings of glibc's memory, such as ``MALLOC_MMAP_THRESHOLD_``."""
    return {key: value for key, value in sorted(os.environ.items()) if key.startswith("MALLOC_")}


@cache
def commit() -> str | None:
    """Return the commit that runs, marked ``+`` where files other than results differ from it; None outside git."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=False)

    try:
        head = git("rev-parse", "--short", "HEAD")
        changed = git("diff", "--quiet", "HEAD", "--", ".", ":!scripts/bench/results")
    except FileNotFoundError:  # no git
        return None
    return None if head.returncode else head.stdout.strip() + "+" * bool(changed.returncode)


def made_by() -> dict[str, Any]:
    """Return what a file says of its figures: the command, the commit and the machine that made them."""
    return {"command": command(), "commit": commit(), "machine": machine()}


def in_a_process(module: str, case: Case, progress: Progress) -> Case:
    """Run one case in a process of its own, so that its peak memory is its own, and return what it measured.

    A case that fails, or for which the time is not enough, comes back with ``failed`` or ``left_out`` saying why.
    """
    words = [sys.executable, "-m", module, "--case", json.dumps(case)]
    quiet = {**os.environ, "KINETO_LOG_LEVEL": "99"}  # torch's profiler writes into the bar
    process = subprocess.Popen(words, cwd=PROJECT, env=quiet, stdout=subprocess.PIPE, text=True)
    while True:
        try:
            printed, _ = process.communicate(timeout=1)
            break
        except subprocess.TimeoutExpired:
            progress.bar.refresh()  # the clock goes on
            left = progress.left()
            if left is not None and left <= 0:
                process.kill()
                process.communicate()
                return {**case, "left_out": "the time was up"}
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        why = " (killed; out of memory as a rule)" if process.returncode == -9 else ""
        return {**case, "failed": f"exit code {process.returncode}{why}"}
    return json.loads(printed.splitlines()[-1])


def run_cases(
    module: str, cases: list[Case], effort: Callable[[Case], float], out: Path, progress: Progress | None = None
) -> list[Case]:
    """Measure the cases one after the other and write all results to ``out`` after each.

    Args:
        module: a benchmark that measures one case when called with ``--case``.
        cases: what to measure.
        effort: how long a case takes, roughly; it only moves the bar.
        out: the JSON file.
        progress: a bar that goes on after these cases; None makes one.

    Returns:
        The cases with what was measured. ``load`` is how busy the machine was before and after each.
    """
    if progress is None:
        with Progress(sum(map(effort, cases))) as own:
            return run_cases(module, cases, effort, out, own)
    results: list[Case] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for case in cases:
        progress.bar.set_description_str(" ".join(str(case[k]) for k in ("path", "classes", "rows") if k in case))
        left, before = progress.left(), os.getloadavg()[0]
        if left is not None and left <= 0:
            results.append({**case, "left_out": "the time was up"})
        else:
            found = in_a_process(module, case, progress)
            found |= {"malloc": malloc()} if malloc() else {}
            results.append({**found, "load": [round(before, 1), round(os.getloadavg()[0], 1)]})
        out.write_text(json.dumps({**made_by(), "results": results}, indent=1) + "\n")
        progress.bar.update(effort(case))
    return results
