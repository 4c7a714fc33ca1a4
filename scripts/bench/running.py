"""Runs the cases of a benchmark in separate processes; writes JSON after each case and prints a table."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from dassl.utils.command import Parser, command
from tqdm import tqdm

PROJECT = Path(__file__).resolve().parents[2]
MEASURE = PROJECT / "scripts" / "bench" / "measure.py"
Case = dict[str, Any]
KEYS = ["classes", "prompts", "images"]
COLUMNS = ["path", *KEYS, "max_memory", "seconds", "cpu_seconds", "first_seconds", "peak_gb", "failed"]


def call(file: Path, case: Case, seconds: float = inf) -> Case:
    """Return what ``file`` measures for a case, in its ``checkout``; ``failed`` says why there is nothing."""
    checkout = case.get("checkout", str(PROJECT))
    python = os.path.join(checkout, ".venv/bin/python") if "checkout" in case else sys.executable
    words = [python, "-c", "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"]
    threads = {"OMP_NUM_THREADS": str(case["threads"])} if case["threads"] else {}
    env, left = {**os.environ, **threads, "PYTHONPATH": checkout}, None if seconds == inf else max(seconds, 0.0)
    options = {"cwd": checkout, "env": env, "timeout": left, "capture_output": True, "text": True}
    try:
        done = subprocess.run([*words, str(file), json.dumps(case)], **options)
    except subprocess.TimeoutExpired:
        return {**case, "failed": "no time left"}
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return {**case, "failed": "killed, probably out of memory" if done.returncode == -9 else last}
    return json.loads(done.stdout.splitlines()[-1])


def run_cases(file: Path, cases: list[Case], out: Path, minutes: float = inf) -> list[Case]:
    """Measure the cases in order, those that end within ``minutes``; write JSON after each."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu}
    machine |= {"python": platform.python_version(), "torch": torch.__version__}
    about = {"command": " ".join(["python", *sys.orig_argv[1:]]), "commit": git.stdout.strip(), "machine": machine}
    results: list[Case] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    for case in tqdm(cases, desc=out.stem, dynamic_ncols=True):
        load = os.getloadavg()[0]
        results.append({**call(file, case, end - time.monotonic()), "load": load})
        out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    return results


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks have."""
    add, out = parser.add_argument, PROJECT / "output" / "bench" / f"{parser.prog}.json"
    add("--device", default="cpu", choices=["cpu", "cuda"], help="torch device")
    add("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    add("--minutes", type=float, default=inf, help="time limit: cases that do not end in it are left out")
    add("--output-file", "--out", dest="out", type=Path, default=out, help="JSON file to write")


def arguments(kind: str, doc: str) -> argparse.ArgumentParser:
    """Return the command line of ``step`` or ``eval``."""
    parser = Parser(prog=kind, doc=doc)
    counts: dict[str, Any] = {"type": int, "nargs": "+"}
    add, most = parser.add_argument, [10, 50, 100, 500, 1000]
    add("--class-counts", "--classes", dest="classes", default=most, help="numbers of classes, K", **counts)
    add("--prompts", default=[4], help="numbers of prompts, M = N", **counts)
    add("--batch-size", "--images", dest="images", default=[4], help="images per batch, B", **counts)
    add("--max-memory", type=float, nargs="+", default=[8.0], metavar="GB", help="memory limits, as of train.py")
    add("--backbone", default="ViT-B-16-quickgelu", help="an open_clip model; its weights are random")
    add("--precision", default="fp32", choices=["fp32", "amp", "fp16", "bf16"], help="precision of the model")
    add("--repeat", type=int, default=3, help="runs of a case after the first; the naive path runs once")
    add("--naive-up-to", type=int, default=100, help="largest number of classes of the naive path")
    add_common(parser)
    return parser


def cases_of(kind: str, args: argparse.Namespace, method: str = "MMP") -> list[Case]:
    """Return the cases of a command line; the naive path, which is MMP's, comes last for each size."""
    cases, same = [], {key: getattr(args, key) for key in ("backbone", "device", "precision", "threads")}
    for n, b, k in ((n, b, k) for n in args.prompts for b in args.images for k in args.classes):
        case = {"kind": kind, "method": method, **same, "classes": k, "prompts": n, "images": b}
        cases += [{**case, "path": "ours", "repeat": args.repeat, "max_memory": most} for most in args.max_memory]
        if k <= args.naive_up_to:
            cases.append({**case, "path": "naive", "repeat": 1, "max_memory": 0.0})
    return cases


def main(kind: str, doc: str) -> int:
    """Run the cases of ``step`` or ``eval`` and print their table; ``x faster`` is the naive path's time over ours."""

    @command(kind)
    def run(words: Sequence[str]) -> None:
        args = arguments(kind, doc).parse_args(words)
        results = run_cases(MEASURE, cases_of(kind, args), args.out, args.minutes)
        found = pd.DataFrame(results).reindex(columns=COLUMNS)
        naive = found[found["path"] == "naive"].set_index(KEYS)["seconds"]
        found["x faster"] = (found.join(naive, on=KEYS, rsuffix="_naive")["seconds_naive"] / found["seconds"]).round(2)
        print(found.to_string(index=False))

    return run()
