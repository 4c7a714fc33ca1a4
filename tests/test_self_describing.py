"""A run says what it is: evaluation by its folder alone, default folders, one log, the summary, warnings, no litter."""

import csv
import json
import re
import sys

import pytest
import torch

import train
from tests.reference.clip_states import vit_state
from tests.reference.layouts import class_folders
from tests.reference.methods import config
from trainers.run_defaults import output_folder

METHOD, FOLDER = "configs/trainers/ALIGN/mini.yaml", "configs/datasets/folder.yaml"
SMALL = "DATASET.NUM_SHOTS 4 DATALOADER.NUM_WORKERS 0 OPTIM.MAX_EPOCH 1 TRAINER.ALIGN.TEXT_PROMPT_DEPTH 2".split()
SMALL += "TRAINER.ALIGN.VISION_PROMPT_DEPTH 2 TRAINER.ALIGN.READING released".split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of 6 images and, of one class, 3; and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("data")
    torch.save(vit_state(patch=16, grid=4, vision_layers=2, text_layers=2), folder / "tiny.pt")
    class_folders(folder / "photos", ["cat", "dog"], count=12)
    class_folders(folder / "photos", ["lynx"], count=5)
    return folder / "photos"


@pytest.fixture
def call(monkeypatch, capfd, tmp_path, photos):
    """Return a function that calls train.py in ``tmp_path``: (exit code, stdout, stderr)."""
    project = train.__file__.removesuffix("train.py")

    def run(*words):
        words = [f"{project}{word}" if str(word).startswith("configs/") else str(word) for word in words]
        monkeypatch.setattr(train, "collect_env_info", str)  # starts processes
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        return train.main(), *capfd.readouterr()

    return run


def training(photos, *words):
    flags = ["--root", photos, "--trainer", "ALIGN", "--seed", 1, "--backbone", photos.parent / "tiny.pt"]
    return [*flags, "--dataset-config-file", FOLDER, "--config-file", METHOD, *words, *SMALL]


def predictions(folder):
    return list(csv.DictReader((folder / "predictions.csv").open()))


@pytest.mark.slow
def test_a_run_is_evaluated_by_its_folder_alone(call, photos, tmp_path):
    code, out, err = call(*training(photos))
    assert code == 0, err
    run = tmp_path / "output" / "photos" / "ALIGN" / "mini" / "seed1"
    assert (run / "predictions.csv").is_file() and [p.name for p in tmp_path.iterdir()] == ["output"]
    summary, log = out[: out.index("\n\n")].splitlines(), (run / "log.txt").read_text()
    warning, rows = out.splitlines()[11], dict(line.split(None, 1) for line in summary)
    assert list(rows) == "method backbone data classes shots seed learned device memory output".split()
    learned = json.loads((run / "results.json").read_text())["learned_parameters"]
    assert rows["learned"] == f"{learned:,} parameters" and rows["output"] == str(run.relative_to(tmp_path))
    assert warning == "1 of 3 classes have fewer training images than DATASET.NUM_SHOTS 4: lynx 2"
    assert "Config:" not in out and "Config:\n" in log and "Environment:" in log and "Loading CLIP" in log

    # No flag but the folder: the same predictions, in a folder below that of the run
    code, out, err = call("--eval-only", "--model-dir", run)
    assert code == 0, err
    assert predictions(run / "eval" / "photos_all") == predictions(run)
    config = json.loads((run / "eval" / "photos_all" / "results.json").read_text())["config"]
    assert config["TRAINER"]["ALIGN"]["READING"] == "released" and config["DATASET"]["NUM_SHOTS"] == 4
    assert "fewer training images" not in out

    # A flag overrides, and the same folder's log goes on
    code, _, err = call("--eval-only", "--model-dir", run, "--seed", "2", "TRAINER.ALIGN.READING", "paper")
    assert code == 0, err
    log = (run / "eval" / "photos_all" / "log.txt").read_text()
    assert log.count("=> result") == 2
    assert re.findall(r"  ALIGN:\n(?: {4}.*\n)*? {4}READING: (\w+)", log) == ["released", "paper"]


def test_a_learning_method_needs_a_run_to_evaluate_and_a_refused_command_leaves_nothing(call, photos, tmp_path):
    code, _, err = call(*training(photos, "--eval-only"))
    assert code == 1 and "--eval-only needs --model-dir RUN: ALIGN learns" in err
    for words in (["--root", tmp_path / "none"], ["--backbone", "/no/clip.pt"], ["--trainer", "ALIGNN"]):
        code, _, err = call(*training(photos, *words))
        assert code == 1, err
    assert list(tmp_path.iterdir()) == []


def test_default_folders(tmp_path):
    cfg = config("CoOp", "DATASET.NAME", "OxfordPets", "TRAINER.NAME", "CoOp", "SEED", 3)
    assert output_folder(cfg, "", "") == "output/oxfordpets/CoOp/default/seed3"
    assert output_folder(cfg, "c/rn50.yaml", "c/oxford_pets.yaml") == "output/oxford_pets/CoOp/rn50/seed3"
    assert output_folder(cfg, "", "c/oxford_pets.yaml", run="r") == "r/eval/oxford_pets_all"
    cfg.DATASET.NAME, cfg.DATASET.ROOT = "Csv", str(tmp_path / "birds.csv")
    assert output_folder(cfg, "", "c/csv.yaml") == "output/birds/CoOp/default/seed3"
