"""A grid of runs through submitit: on this machine, one process per GPU, or on a Slurm cluster.

    python -m experiments.sweep --protocol base2new --methods ALIGN MaPLe CoOp --datasets all --seeds 1 2 3 --dry-run
    python -m experiments.sweep --protocol xd --methods all --executor slurm --slurm partition=gpu time=600

A job is a training and its tests. Finished runs are not repeated, so the same command also completes a sweep.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import submitit
from dassl.utils.command import Parser
from dassl.utils.stopping import stop_on_signals
from tabulate import tabulate
from tqdm import tqdm

from experiments.protocols import PROTOCOLS, SEEDS, Job, RunDefaults, add_defaults, add_shots, plan
from experiments.runs import PROJECT, command, run_all, state, without_ctrl_c

WEEK = 7 * 24 * 60  # minutes: submitit ends local jobs after two by default


def name_of(job: Job, protocol: str) -> str:
    shots = f", {job[-1].shots} shots" if protocol == "fewshot" else ""
    return f"{job[0].method}, {job[0].dataset}{shots}, seed {job[0].seed}"


def run_job(job: Job) -> str:
    """Execute a job in the process that submitit starts; return the reason if it fails, else ""."""
    try:
        with stop_on_signals():
            run_all(job, quiet=True)
    except (ValueError, RuntimeError, OSError) as error:
        return str(error)
    except KeyboardInterrupt:
        return "interrupted"
    return ""


def submit(runner: submitit.Executor, job: Job) -> submitit.Job:
    """Submit a job; on this machine, its processes leave Ctrl-C to this one, which ends them."""
    with without_ctrl_c():
        return runner.submit(run_job, job)


def cancel(handles: Sequence[submitit.Job]) -> None:
    """End submitted jobs; those on this machine have ended when it returns."""
    for handle in handles:
        if not isinstance(handle, submitit.LocalJob):
            handle.cancel()
    local = [handle for handle in handles if isinstance(handle, submitit.LocalJob)]
    while running := [handle for handle in local if not handle.done()]:
        for handle in running:  # repeated: a job that is starting ignores the first signal
            with suppress(ProcessLookupError):
                os.kill(int(handle.job_id), signal.SIGTERM)
        time.sleep(1)


def visible_gpus() -> list[int]:
    """Return the GPUs of this machine that this process may use."""
    import torch

    named, count = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","), torch.cuda.device_count()
    return [int(word) for word in named if word.strip().isdigit()][:count] or list(range(count))


def local_slots(jobs: int | None) -> list[int | None]:
    """Return one GPU index (None: the CPU) per process that may run at a time; divide the CPU's threads among them.

    ``--jobs`` below 1, or where the GPUs determine it, raises ValueError.
    """
    gpus = visible_gpus()
    if gpus and jobs is not None:
        raise ValueError(f"--jobs is for machines without GPU; here one process runs on each of {len(gpus)}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs is {jobs}; allowed: 1 or more")
    if jobs is not None and jobs > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(cores // jobs, 1)))  # inherited by the jobs
    return list(gpus) or [None] * (jobs or 1)


def executor(args: argparse.Namespace, slot: int | None = None, name: str = "check") -> submitit.Executor:
    """Return a submitit executor for one job, on this machine's GPU ``slot`` or on the cluster.

    An option that submitit does not know raises ValueError.
    """
    folder = PROJECT / args.output / "sweep"
    if args.executor == "local":
        local = submitit.LocalExecutor(folder)
        gpu = {} if slot is None else {"gpus_per_node": 1, "visible_gpus": [slot]}
        local.update_parameters(timeout_min=WEEK, **gpu)
        return local
    given: dict[str, Any] = {key: int(v) if v.isdigit() else v for key, _, v in (p.partition("=") for p in args.slurm)}
    gpu = {} if {"gpus_per_node", "gres", "gpus_per_task"} & set(given) else {"gpus_per_node": 1}
    remote = submitit.SlurmExecutor(folder)
    try:
        remote.update_parameters(job_name=name.replace(", ", "-").replace(" ", ""), **gpu, **given)
    except ValueError as error:  # submitit's message has many lines
        raise ValueError(str(error).splitlines()[0]) from None
    return remote


def run_jobs(jobs: Sequence[Job], slots: Sequence[int | None], args: argparse.Namespace) -> int:
    """Submit the jobs, at most one per slot at a time; print why jobs fail; return the number of failed jobs."""
    waiting, free, failed = list(jobs), list(slots), 0
    running: dict[str, tuple[submitit.Job, int | None]] = {}
    with tqdm(total=len(waiting), desc="jobs", unit="job", dynamic_ncols=True) as bar:
        try:
            while waiting or running:
                while waiting and free:
                    job, slot = waiting.pop(0), free.pop(0)
                    name = name_of(job, args.protocol)
                    running[name] = submit(executor(args, slot, name), job), slot
                for name in [name for name, (handle, _) in running.items() if handle.done()]:
                    handle, slot = running.pop(name)
                    free.append(slot)
                    error = handle.exception()
                    if reason := " ".join(str(error).split()) if error else handle.result():
                        failed += 1
                        bar.write(f"failed: {name}: {reason} ({handle.paths.stderr})", file=sys.stderr)
                    bar.update()
                bar.set_postfix_str(f"{len(running)} running, {failed} failed")
                time.sleep(1.0 if running else 0.0)
        except KeyboardInterrupt:
            cancel([handle for handle, _ in running.values()])
            raise
    return failed


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="sweep", doc=__doc__)
    add = parser.add_argument
    add("--protocol", choices=PROTOCOLS, required=True, help="what to train on and to test on")
    add("--methods", nargs="+", required=True, help="registry names, or all")
    add("--datasets", nargs="+", default=["all"], help="names, all (the paper's) or mini")
    add("--seeds", type=int, nargs="+", default=SEEDS, help="random seeds (default: 1 2 3)")
    add("--executor", choices=("local", "slurm"), default="local", help="where jobs run")
    add("--jobs", type=int, help="processes at a time without GPUs (default: 1); OMP_NUM_THREADS divides the cores")
    add("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="options of sbatch, as submitit names them")
    add("--dry-run", action="store_true", help="list the jobs and what is done already")
    add_defaults(parser)
    add_shots(parser)
    args = parser.parse_args(argv)
    if wrong := [pair for pair in args.slurm if "=" not in pair]:
        raise ValueError(f"--slurm takes KEY=VALUE, but got {wrong[0]!r}")
    jobs = plan(args.protocol, args.methods, args.datasets, args.seeds, RunDefaults.from_args(args), args.shots)
    states = {job: Counter(state(run) for run in job) for job in jobs}
    todo = [job for job in jobs if set(states[job]) != {"done"}]
    if args.dry_run:
        rows = []
        for job, counts in states.items():
            progress = ", ".join(f"{counts[word]} {word}" for word in ("done", "begun", "to do") if counts[word])
            rows.append([name_of(job, args.protocol), progress if job in todo else "done", str(job[0].folder)])
        print(tabulate(rows, headers=["job", "runs", "folder of the training"], tablefmt="simple"))
        print(f"\n{len(jobs)} jobs, {len(jobs) - len(todo)} done, {len(todo)} to do")
        return 0
    slots = local_slots(args.jobs) if args.executor == "local" else [None] * len(todo)
    executor(args)  # raises for an unknown option before any run starts
    root = PROJECT / os.path.expanduser(args.root)
    needed = not all(run.dataset.startswith("mini_") for job in todo for run in job)  # the mini suite is made
    if needed and args.executor == "local" and not root.exists():  # a cluster's nodes may have other folders
        raise FileNotFoundError(f"there is no {root}: --root, or DATA, names the folder of the data sets")
    failed = run_jobs(todo, slots, args)
    before, now = len(jobs) - len(todo), len(todo) - failed
    print(f"{len(jobs)} jobs: {before} were done, {now} done now, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
