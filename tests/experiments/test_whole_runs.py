"""Protocols from end to end on a tiny CLIP: a whole table by one command, a broken run, a stage that is repeated."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from experiments import sweep
from experiments.protocols import RunDefaults, plan
from experiments.runs import PROJECT, read_results, run_all, state
from tests.reference.clip_states import vit_state
from tests.reference.layouts import LAYOUTS

pytestmark = pytest.mark.slow
BREAK = """
import sys, train
from trainers.trainer import PromptTrainer
def stop(self):
    if self.epoch == 2:
        raise KeyboardInterrupt
PromptTrainer.before_epoch = stop
sys.exit(train.main())
"""


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """Config words for runs of a second on the mini sets' images of 64 x 64, and a root that they share."""
    folder = tmp_path_factory.mktemp("mini")
    torch.save(vit_state(patch=16, grid=4, vision_layers=1, text_layers=1), folder / "tiny.pt")
    words = ["MODEL.BACKBONE.NAME", str(folder / "tiny.pt"), "DATALOADER.NUM_WORKERS", "0"]
    return [*words, "DATASET.NUM_SHOTS", "1"], folder / "data"


def call(words, **more):
    """Run a command from the project's folder, with one thread, so that numbers are the same each time."""
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(list(map(str, words)), cwd=PROJECT, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_reproduce_goes_from_nothing_to_the_table(mini, tmp_path, call_main):
    words, root = mini
    small = " ".join(["--shots 1 --set", *words, "OPTIM.MAX_EPOCH 1"])
    more = {"DATA": str(root), "OUTPUT": str(tmp_path), "DATASETS": "mini_plants", "SEEDS": "1", "SWEEP": small}
    code, out, err = call(["scripts/reproduce.sh", "fewshot", "CoOp"], **more)
    assert code == 0, err
    assert "1 jobs: 0 were done, 1 done now, 0 failed" in out and "Missing" not in out
    (path,) = (tmp_path / "fewshot").rglob("results.json")
    accuracy = json.loads(path.read_text())["metrics"]["test"]["accuracy"]
    (line,) = (line.split(",") for line in (tmp_path / "fewshot.csv").read_text().splitlines()[1:])
    assert line[1] == "CoOp" and float(line[3]) == pytest.approx(accuracy)
    assert f"{accuracy:.2f}" in out and f"{accuracy:.2f}" in (tmp_path / "fewshot.md").read_text()
    assert (tmp_path / "fewshot.png").read_bytes()[:4] == b"\x89PNG"
    grid = ["--protocol", "fewshot", "--methods", "CoOp", "--datasets", "mini_plants", "--seeds", "1", "--dry-run"]
    out = call_main(sweep, *grid, "--root", root, "--output", tmp_path, *small.split())[1]
    assert "1 jobs, 1 done, 0 to do" in out


@pytest.mark.long
def test_a_broken_run_goes_on_in_a_protocol_and_ends_as_if_it_had_not_broken(mini, tmp_path):
    words, root = mini
    words = (*words, "OPTIM.MAX_EPOCH", "3")
    root.mkdir(exist_ok=True)
    (job,), (whole,) = (
        plan("fewshot", ["CoOp"], ["mini_plants"], [1], RunDefaults(str(root), tmp_path / name, "", words), [1])
        for name in ("broken", "whole")
    )
    (run,) = job
    assert call([sys.executable, "-c", BREAK, *run.argv()])[0] == 130 and state(run) == "begun"
    flags = ["--root", root, "--output", tmp_path / "broken", "--shots", "1", "--quiet", "--set", *words]
    again = ["scripts/fewshot.sh", "CoOp", "mini_plants", "1", *flags]
    for command in (again, [sys.executable, "train.py", *whole[0].argv()]):
        code, _, err = call(command)
        assert code == 0, err
    log = (run.results_file.parent / "log.txt").read_text().rpartition("Arguments: ")[2]
    assert "epoch [3/3]" in log and "epoch [1/3]" not in log  # it resumed
    assert state(run) == "done" and state(whole[0]) == "done"
    broken, unbroken = (read_results(one) for one in (run, whole[0]))
    assert broken["learned_sha256"] == unbroken["learned_sha256"]
    assert broken["metrics"]["test"]["class_accuracy"] == unbroken["metrics"]["test"]["class_accuracy"]


def test_a_second_stage_is_repeated_when_the_first_was_trained_again(small, tmp_path):
    LAYOUTS["DescribableTextures"][0](tmp_path / "data")
    defaults = RunDefaults(str(tmp_path / "data"), tmp_path / "output", "", (*small, "TRAINER.PLOTPP.PREC", "fp32"))
    ((first, second),) = plan("fewshot", ["PLOTPP"], ["dtd"], [1], defaults, [1])
    run_all([first, second], quiet=True)
    before = [read_results(run) for run in (first, second)]
    assert before[1]["start_sha256"] == before[0]["learned_sha256"] != before[1]["learned_sha256"]

    shutil.rmtree(first.results_file.parent)
    again = replace(first, options=(*first.options, "OPTIM.WARMUP_CONS_LR", "0.1"))  # other prompts in the same folder
    run_all([again, replace(second, first_stage=again)], quiet=True)
    after = [read_results(run) for run in (again, second)]
    assert after[1]["start_sha256"] == after[0]["learned_sha256"] != before[0]["learned_sha256"]
    assert after[1]["learned_sha256"] != before[1]["learned_sha256"]
    (archive,) = second.results_file.parent.glob("before-*")
    assert json.loads((archive / "run.json").read_text())["start_sha256"] == before[0]["learned_sha256"]
