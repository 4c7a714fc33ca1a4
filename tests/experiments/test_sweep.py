"""Sweeps through submitit: real jobs on this machine, and a Slurm that is a few lines of shell."""

from __future__ import annotations

import os
import sys
from functools import partial

import pytest

from experiments import sweep


@pytest.fixture
def call(call_main):
    return partial(call_main, sweep)


@pytest.fixture
def stand_in(monkeypatch):
    """Let jobs call a function instead of training; the process that submitit starts unpickles it."""

    def use(function):
        monkeypatch.setattr(sweep, "run_job", function)

    return use


def append(path, variable):
    """Return a job that writes an environment variable into a file."""

    def job(runs):
        with open(path, "a") as file:
            file.write(os.environ[variable] + "\n")
        return ""

    return job


GRID = ("--protocol", "base2new", "--methods", "CoOp", "MaPLe", "--datasets", "mini_source", "--seeds", "1")


def test_a_job_that_crashes_is_named(call, stand_in, tmp_path):
    stand_in(lambda runs: 1 // 0)
    code, _, err = call(*GRID[:3], "CoOp", *GRID[5:], "--output", tmp_path)
    assert code == 1 and "failed: CoOp, mini_source, seed 1: " in err and "ZeroDivisionError" in err


def test_failed_jobs_are_named_with_their_reason_and_log(call, stand_in, tmp_path):
    stand_in(lambda runs: "the reason" if runs[0].method == "CoOp" else "")
    code, out, err = call(*GRID, "--output", tmp_path, "--jobs", "2")
    assert code == 1 and "2 jobs: 0 were done, 1 done now, 1 failed" in out
    assert "failed: CoOp, mini_source, seed 1: the reason (" in err and "failed: MaPLe" not in err


def test_one_process_a_gpu(call, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "visible_gpus", lambda: [2, 5])
    log = tmp_path / "gpus"
    stand_in(append(log, "CUDA_VISIBLE_DEVICES"))
    code, _, err = call(*GRID, "--output", tmp_path)
    assert code == 0, err
    assert sorted(log.read_text().split()) == ["2", "5"]
    code, _, err = call(*GRID, "--output", tmp_path, "--jobs", "3")
    assert code == 1 and "here one process runs on each of 2" in err


@pytest.fixture
def six_cores(monkeypatch):
    monkeypatch.setattr(sweep, "visible_gpus", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # so that the value is restored
    del os.environ["OMP_NUM_THREADS"]


def test_processes_share_the_cores(call, stand_in, six_cores, tmp_path):
    log = tmp_path / "threads"
    stand_in(append(log, "OMP_NUM_THREADS"))
    code, _, err = call(*GRID, "--output", tmp_path, "--jobs", "2")
    assert code == 0, err
    assert log.read_text().split() == ["3", "3"]


def test_threads_that_the_user_sets_stay(six_cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert sweep.local_slots(2) == [None, None] and os.environ["OMP_NUM_THREADS"] == "5"


def test_a_wrong_number_of_jobs(call, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "visible_gpus", lambda: [])
    for jobs in ("0", "-1"):
        code, _, err = call(*GRID, "--output", tmp_path, "--jobs", jobs)
        assert code == 1 and f"--jobs is {jobs}; it should be at least 1" in err


def test_dry_run_lists_what_is_done(call, tmp_path):
    code, out, _ = call(*GRID, "--output", tmp_path, "--dry-run")
    assert code == 0 and "2 jobs, 0 done, 2 to do" in out and "CoOp, mini_source, seed 1" in out and "2 to do" in out
    assert not list(tmp_path.iterdir())


SBATCH = """#!/bin/bash
export SLURM_JOB_ID=42 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0
export SLURM_JOB_NODELIST=here
cp "${@: -1}" "$0.script"
(sleep 0.5; bash "$0.script" > "$0.out" 2>&1) > /dev/null 2>&1 &
echo "Submitted batch job 42"
"""
SRUN = """#!/bin/bash
while [ $# -gt 0 ] && [ "$1" != "{python}" ]; do shift; done
exec "$@"
"""


def test_slurm_takes_the_same_words(call, stand_in, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    sacct = "#!/bin/bash\necho 'JobID|State|NodeList'; echo '42|COMPLETED|here'\n"
    for name, text in (("sbatch", SBATCH), ("srun", SRUN.format(python=sys.executable)), ("sacct", sacct)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    stand_in(append(tmp_path / "ran", "SLURM_JOB_ID"))
    words = ("--protocol", "xd", "--methods", "CoOp", "--datasets", "mini", "--seeds", "1", "--output", tmp_path)
    code, out, err = call(*words, "--executor", "slurm", "--slurm", "partition=gpu", "time=30")
    assert code == 0, err
    assert "1 done now" in out and (tmp_path / "ran").read_text() == "42\n"
    script = (tools / "sbatch.script").read_text()
    assert "#SBATCH --partition=gpu" in script and "#SBATCH --time=30" in script
    assert "#SBATCH --gpus-per-node=1" in script
    code, _, err = call(*words, "--executor", "slurm", "--slurm", "partitions=gpu")
    assert code == 1 and err.startswith("sweep: error: ") and "partitions" in err
    code, _, err = call(*words, "--executor", "slurm", "--slurm", "gpu")
    assert code == 1 and "--slurm takes KEY=VALUE, but got 'gpu'" in err
