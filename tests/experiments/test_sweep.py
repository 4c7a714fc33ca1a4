"""Sweeps through submitit: real jobs on this machine, and a Slurm that is a few lines of shell."""

import os
import signal
import sys
import time

import pytest
import submitit
from dassl.utils.stopping import stop_on_signals

from experiments import sweep

GRID = ("--protocol", "base2new", "--methods", "CoOp", "MaPLe", "--datasets", "mini_source", "--seeds", "1")


@pytest.fixture
def call(call_main, tmp_path, monkeypatch):
    """A function that sweeps with ``job`` in place of a training; the process that submitit starts unpickles it."""

    def run(*words, job=None):
        monkeypatch.setattr(sweep, "run_job", job)
        return call_main(sweep, *words, "--output", tmp_path)

    return run


def append(path, variable):
    """Return a job that writes an environment variable into a file."""

    def job(runs):
        with open(path, "a") as file:
            file.write(os.environ[variable] + "\n")
        return ""

    return job


@pytest.mark.slow
def test_failed_jobs_are_named_with_their_reason_and_log(call):
    code, out, err = call(*GRID, job=lambda runs: "the reason" if runs[0].method == "CoOp" else 1 // 0)
    assert code == 1 and "2 jobs: 0 were done, 0 done now, 2 failed" in out
    assert "failed: CoOp, mini_source, seed 1: the reason (" in err
    assert "failed: MaPLe, mini_source, seed 1: " in err and "ZeroDivisionError" in err


def test_a_missing_data_folder_stops_a_sweep_before_its_first_job(call):
    grid = ["dtd" if word == "mini_source" else word for word in GRID]
    code, out, err = call(*grid, "--root", "/no/data", job=lambda runs: 1 // 0)
    assert code == 1 and "there is no /no/data: --root, or DATA, names the folder" in err and not out


@pytest.mark.slow
def test_one_process_a_gpu(call, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "visible_gpus", lambda: [2, 5])
    code, _, err = call(*GRID, job=append(tmp_path / "gpus", "CUDA_VISIBLE_DEVICES"))
    assert code == 0, err
    assert sorted((tmp_path / "gpus").read_text().split()) == ["2", "5"]
    code, _, err = call(*GRID, "--jobs", "3")
    assert code == 1 and "here one process runs on each of 2" in err


@pytest.mark.slow
def test_processes_share_the_cores(call, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "visible_gpus", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # a user's value stays
    assert sweep.local_slots(2) == [None, None] and os.environ["OMP_NUM_THREADS"] == "5"
    del os.environ["OMP_NUM_THREADS"]
    code, _, err = call(*GRID, "--jobs", "2", job=append(tmp_path / "threads", "OMP_NUM_THREADS"))
    assert code == 0, err
    assert (tmp_path / "threads").read_text().split() == ["3", "3"]
    code, _, err = call(*GRID, "--jobs", "0")
    assert code == 1 and "--jobs is 0; allowed: 1 or more" in err


@pytest.mark.slow
def test_jobs_end_with_the_sweep(tmp_path, monkeypatch):
    """They leave Ctrl-C, which the terminal also sends to them, to the sweep, which ends them by SIGTERM."""

    def job(started):
        with stop_on_signals():
            started.touch()
            time.sleep(100)

    monkeypatch.setattr(sweep, "run_job", job)
    runner = submitit.LocalExecutor(tmp_path)
    runner.update_parameters(timeout_min=2)
    handles = [sweep.submit(runner, tmp_path / name) for name in ("a", "b")]
    os.kill(int(handles[0].job_id), signal.SIGINT)
    while not all((tmp_path / name).exists() for name in ("a", "b")):
        time.sleep(0.1)
    assert not any(handle.done() for handle in handles)
    start = time.monotonic()
    sweep.cancel(handles)
    assert all(handle.done() for handle in handles) and time.monotonic() - start < 50


def test_a_job_that_is_ended_says_so(monkeypatch):
    monkeypatch.setattr(sweep, "run_all", lambda job, quiet: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9))
    assert sweep.run_job(()) == "interrupted"


def test_dry_run_lists_what_is_done(call, tmp_path):
    code, out, _ = call(*GRID, "--dry-run")
    assert code == 0 and "2 jobs, 0 done, 2 to do" in out and "CoOp, mini_source, seed 1" in out
    assert not list(tmp_path.iterdir())


SBATCH = """#!/bin/bash
export SLURM_JOB_ID=42 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0
export SLURM_JOB_NODELIST=here
cp "${@: -1}" "$0.script"
(sleep 0.5; bash "$0.script" > "$0.out" 2>&1; touch "$0.done") > /dev/null 2>&1 &
echo "Submitted batch job 42"
"""
SRUN = f"""#!/bin/bash
while [ $# -gt 0 ] && [ "$1" != "{sys.executable}" ]; do shift; done
exec "$@"
"""
SACCT = """#!/bin/bash
[ -e "$(dirname "$0")/sbatch.done" ] && state=COMPLETED || state=RUNNING
echo 'JobID|State|NodeList'; echo "42|$state|here"
"""


@pytest.mark.slow
def test_slurm_takes_the_same_words(call, tmp_path, monkeypatch):
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ("--protocol", "xd", "--methods", "CoOp", "--datasets", "mini", "--seeds", "1", "--executor", "slurm")
    code, out, err = call(*words, "--slurm", "partition=gpu", "time=30", job=append(tmp_path / "ran", "SLURM_JOB_ID"))
    assert code == 0, err
    assert "1 done now" in out and (tmp_path / "ran").read_text() == "42\n"
    script = (tmp_path / "sbatch.script").read_text()
    for line in ("--partition=gpu", "--time=30", "--gpus-per-node=1"):
        assert f"#SBATCH {line}" in script
    code, _, err = call(*words, "--slurm", "partitions=gpu")
    assert code == 1 and err.startswith("sweep: error: ") and "partitions" in err
    code, _, err = call(*words, "--slurm", "gpu")
    assert code == 1 and "--slurm takes KEY=VALUE, but got 'gpu'" in err
