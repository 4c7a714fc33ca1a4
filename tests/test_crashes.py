"""A run that ends before its time leaves whole files, and the same command brings it to the same end."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock

from tests.reference.crashing import PROJECT, Run, short_run, workers_of
from trainers.record.files import LOCK_NAME

RUN = "prompt_learner"
MOMENTS = random.Random(7)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Words of a run, and what it leaves when nothing ends it."""
    folder = tmp_path_factory.mktemp("whole")
    words = short_run(folder)
    code, printed = Run(words, folder / "run", at_change=0).end()
    assert code == 0, printed
    return words, outcome(folder / "run"), int(re.search(r"changes: (\d+)", printed)[1])


def outcome(run):
    """Learned tensors, metrics, predictions, and the names of all files but logs and TensorBoard's."""
    results = json.loads((run / "results.json").read_text())
    metrics = {k: value for k, value in results["metrics"]["test"].items() if "second" not in k and "ms" not in k}
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    files = {name for name in files if not name.startswith(("log.txt", "tensorboard"))}
    momentum = torch.load(run / RUN / "model.pth.tar-3", weights_only=True)["optimizer"]["state"]
    return results["learned_sha256"], metrics, (run / "predictions.csv").read_bytes(), files, momentum


def ends_the_same(words, run, expected):
    code, printed = Run(words, run).end()
    assert code == 0 and "Traceback" not in printed, printed
    *found, momentum = outcome(run)
    *wanted, wanted_momentum = expected
    assert found == wanted
    for index, values in wanted_momentum.items():
        assert all(torch.equal(values[key], momentum[index][key]) for key in values)


def crash_and_resume(job, run, after=None, **how):
    words, expected, _ = job
    code, printed = Run(words, run, **how).end(after and signal.SIGKILL, after)
    assert "Traceback" not in printed, printed
    ends_the_same(words, run, expected)
    return code, printed


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.25, 0.5, 0.75, 0.95])
def test_killed_at_a_change_of_a_file(job, tmp_path, part):
    assert crash_and_resume(job, tmp_path / "run", at_change=round(part * job[2]))[0] == -signal.SIGKILL


@pytest.mark.long
def test_killed_at_every_change_of_a_file(job, tmp_path):
    for change in range(job[2], 0, -1):  # the last ones depend on one another most
        assert crash_and_resume(job, tmp_path / str(change), at_change=change)[0] == -signal.SIGKILL


@pytest.mark.long
def test_killed_at_random_moments(job, tmp_path):
    start = time.monotonic()
    ends_the_same(job[0], tmp_path / "timed", job[1])
    seconds = time.monotonic() - start
    for i in range(20):
        crash_and_resume(job, tmp_path / str(i), after=MOMENTS.uniform(0.1, seconds))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_by_a_signal(job, tmp_path, number):
    """Without kept checkpoints (TRAIN.CHECKPOINT_FREQ 0); the line says where the same command goes on."""
    words, expected, changes = job
    assert "TRAIN.CHECKPOINT_FREQ" not in words  # 0 by default
    seen = []
    for change in (round(0.25 * changes), round(0.5 * changes)):
        run = tmp_path / str(change)
        code, printed = crash_and_resume(job, run, at_change=change, number=number)
        assert code == 128 + number
        seen += re.findall("train.py: interrupted; (.*)", printed)
    assert seen[0] == "no epoch was finished: the same command starts from the beginning"
    assert re.fullmatch(r"the same command resumes after epoch [12] of 3", seen[1])


@pytest.mark.slow
def test_workers_end_with_the_run(job, tmp_path):
    words = [*job[0], "DATALOADER.NUM_WORKERS", "2", "OPTIM.MAX_EPOCH", "200"]
    for number in (signal.SIGTERM, signal.SIGINT):
        run = Run(words, tmp_path / str(int(number)))
        run.wait_for("epoch [2/")
        workers = workers_of(run.process.pid)
        code, printed = run.end(number)
        assert code == 128 + number and "Traceback" not in printed, printed
        assert len(workers) == 2 and not [worker for worker in workers if os.path.exists(f"/proc/{worker}")]


@pytest.mark.slow
def test_a_run_ends_with_the_command_that_was_killed(job, tmp_path):
    words = ["--output-dir", str(tmp_path), *job[0], "OPTIM.MAX_EPOCH", "2000"]
    call = f"from experiments.runs import execute, tqdm; execute({words}, '', tqdm())"
    command = subprocess.Popen([sys.executable, "-c", call], cwd=PROJECT)
    while not (tmp_path / RUN).is_dir():
        assert command.poll() is None
        time.sleep(0.1)
    command.kill()
    command.wait()
    FileLock(tmp_path / LOCK_NAME, timeout=20).acquire()  # the run holds it until its end


STARTS = """
import sys
from dassl.utils.command import command
from experiments.runs import execute, tqdm
@command("tool")
def main(words):
    print("ready", flush=True)
    execute(words, "", tqdm(disable=True))
sys.exit(main())
"""


@pytest.mark.slow
def test_ctrl_c_while_the_first_run_starts(tmp_path):
    """A terminal also sends it to the server of processes, which imports train.py for seconds."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True, "text": True}
    command = subprocess.Popen([sys.executable, "-c", STARTS], cwd=PROJECT, **how)
    assert command.stdout.readline() == "ready\n"
    time.sleep(0.5)
    os.killpg(command.pid, signal.SIGINT)
    printed = command.communicate()[0]  # until the server, too, has ended
    assert (command.returncode, printed) == (130, "tool: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 3000, 15000, 10**6])
def test_no_room_for_a_file(job, tmp_path, limit):
    """A limit of the size of files, as a full disk, at several sizes between nothing and everything."""
    words = [*job[0], "DATALOADER.CACHE_MB", "0"]  # shared memory has the same limit
    code, printed = crash_and_resume((words, *job[1:]), tmp_path / "run", limit=limit)
    error = f"train.py: error: .*File too large.*{tmp_path}/run/"
    assert code == 0 or re.match(error, printed.splitlines()[-1]), printed


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused(job, tmp_path):
    words, folder = [*job[0], "OPTIM.MAX_EPOCH", "200", "DATALOADER.NUM_WORKERS", "2"], tmp_path / "run"
    first = Run(words, folder)
    first.wait_for("epoch [2/")
    code, printed = Run([*words, "SEED", "2"], folder).end()
    assert code == 1 and f"another run is writing to {folder}" in printed.splitlines()[-1]
    assert json.loads((folder / "run.json").read_text())["config"]["SEED"] == 1
    first.end(signal.SIGKILL)  # its workers may live on for some seconds, and the folder is free
    code, printed = Run(words[:-4], folder).end()
    assert code == 1 and "OPTIM.MAX_EPOCH was 200 and is now 3" in printed.splitlines()[-1]


@pytest.mark.slow
def test_a_checkpoint_is_resumed_by_its_own_run_only(job, tmp_path):
    words, _, changes = job
    folder = tmp_path / "run"
    Run(words, folder, at_change=round(0.6 * changes)).end()
    code, printed = Run([*words, "DATALOADER.NUM_WORKERS", "1"], folder).end()
    assert code == 1 and "NUM_WORKERS 0 and cannot go on with 1: the workers draw" in printed.splitlines()[-1]
    record = json.loads((folder / "run.json").read_text())
    record["config"]["SEED"] = 2  # as a second run at the same time would leave it
    (folder / "run.json").write_text(json.dumps(record))
    code, printed = Run([*words, "SEED", "2"], folder).end()
    line = f"the checkpoint in {folder} holds a run with other settings: SEED was 1 and is now 2"
    assert code == 1 and line in printed


@pytest.mark.slow
def test_a_run_that_resumes_another_one_goes_on_from_its_own_checkpoints(job, tmp_path):
    words, expected, changes = job
    Run(words, tmp_path / "first", at_change=round(0.45 * changes)).end()
    words = [*words[:8], "--resume", str(tmp_path / "first"), *words[8:]]
    Run(words, tmp_path / "second", at_change=round(0.5 * changes)).end()
    assert (tmp_path / "second" / RUN / "checkpoint").is_file()
    (tmp_path / "first" / RUN / "model-last.pth.tar").write_bytes(b"damaged since")
    ends_the_same(words, tmp_path / "second", expected)
