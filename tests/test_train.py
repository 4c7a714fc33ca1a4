"""train.py as a user calls it: whole runs in seconds, and one line for every mistake."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import torch

import train
from tests.reference.clip_states import vit_state

DATASET = "configs/datasets/mini_source.yaml"
METHOD = "configs/trainers/ALIGN/mini.yaml"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny random CLIP for 64 x 64 images."""
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(vit_state(patch=16, grid=4, vision_layers=2, text_layers=2), path)
    return path


@pytest.fixture
def call(root, backbone, tmp_path, monkeypatch, capfd):
    """Return a function that calls train.py with flags and KEY VALUE words: (exit code, stdout, stderr)."""

    def run(*words, output=tmp_path / "run", trainer="ALIGN", config=METHOD, data=root, opts=()):
        flags = ["--root", data, "--trainer", trainer, "--seed", "1", "--backbone", backbone, "--output-dir", output]
        files = ["--dataset-config-file", DATASET, "--config-file", config]
        small = "DATASET.NUM_SHOTS 1 DATASET.SUBSAMPLE_CLASSES base DATALOADER.NUM_WORKERS 0 OPTIM.MAX_EPOCH 2".split()
        depth = "TRAINER.ALIGN.TEXT_PROMPT_DEPTH 2 TRAINER.ALIGN.VISION_PROMPT_DEPTH 2 TRAIN.CHECKPOINT_FREQ 1".split()
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*flags, *files, *words, *small, *depth, *opts])])
        code = train.main()
        return code, *capfd.readouterr()

    return run


@pytest.mark.slow
def test_train_then_test_on_new_classes(call, tmp_path):
    code, out, err = call()
    assert code == 0, err
    for line in ("Finish training", "Finished training", "=> result", "* accuracy: ", "* macro_f1: "):
        assert line in out
    assert re.search(r"epoch \[2/2\] batch \[2/2\] time \S+ \(\S+\) data \S+ \(\S+\) loss \S+ \(\S+\) acc", out)
    run = tmp_path / "run"
    assert (run / "log.txt").read_text().count("* accuracy: ") == 1
    assert list((run / "tensorboard").iterdir())
    folder = run / "MultiModalPromptLearner"
    assert {p.name for p in folder.iterdir()} == {"checkpoint", "model.pth.tar-1", "model.pth.tar-2"}
    saved = torch.load(folder / "model.pth.tar-2", weights_only=True)
    assert all(name.startswith("prompt_learner.") and "token" not in name for name in saved["state_dict"])
    assert (
        sum(value.numel() for value in saved["state_dict"].values())
        == json.loads((run / "results.json").read_text())["learned_parameters"]
    )

    new = ["DATASET.SUBSAMPLE_CLASSES", "new"]
    code, out, err = call("--eval-only", "--model-dir", run, "--load-epoch", "2", output=tmp_path / "new", opts=new)
    assert code == 0, err
    base, new = (json.loads((tmp_path / d / "results.json").read_text()) for d in ("run", "new"))
    assert (base["classes"], new["classes"]) == ("base", "new") and base["method"] == "ALIGN"
    assert not set(base["classnames"]) & set(new["classnames"])
    assert base["train_seconds"] > 0 and new["loaded_from"].endswith("model.pth.tar-2")
    printed = float(re.search(r"\* accuracy: ([\d.]+)%", out)[1])
    assert printed == pytest.approx(new["metrics"]["test"]["accuracy"], abs=0.051)

    code, _, err = call("--eval-only", "--model-dir", run, "--load-epoch", "9", output=tmp_path / "nine")
    assert code == 1 and "it holds epochs 1, 2" in err


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_a_finished_run_is_tested_only(call, tmp_path):
    for name in ("a", "b"):
        assert call(output=tmp_path / name)[0] == 0
    a, b = (json.loads((tmp_path / n / "results.json").read_text()) for n in "ab")
    assert a["metrics"]["test"]["accuracy"] == b["metrics"]["test"]["accuracy"]
    states = [torch.load(tmp_path / n / "MultiModalPromptLearner/model.pth.tar-2")["state_dict"] for n in "ab"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    code, out, _ = call(output=tmp_path / "a")
    assert code == 0 and "will resume training" in out and "epoch [" not in out
    assert json.loads((tmp_path / "a" / "results.json").read_text())["train_seconds"] == a["train_seconds"] > 0
    code, _, err = call(output=tmp_path / "a", opts=["OPTIM.LR", "0.1"])
    assert code == 1 and "OPTIM.LR was 0.0025 and is now 0.1" in err


@pytest.mark.slow
def test_a_checkpoint_of_another_depth_or_another_method(call, tmp_path):
    assert call("--no-train")[0] == 0
    assert call(opts=["OPTIM.MAX_EPOCH", "1"], output=tmp_path / "deep")[0] == 0
    shallow = ["TRAINER.ALIGN.TEXT_PROMPT_DEPTH", "1", "TRAINER.ALIGN.VISION_PROMPT_DEPTH", "1"]
    for opts in (shallow, ["TRAINER.ALIGN.COUPLING", "independent"]):
        code, _, err = call("--eval-only", "--model-dir", tmp_path / "deep", output=tmp_path / "no", opts=opts)
        assert code == 1 and "model.pth.tar-1" in err and "trained with another method" in err, err
        assert len(err.strip().splitlines()[-1].split("train.py: error: ")) == 2 and "Traceback" not in err


def test_model_dir_goes_with_eval_only(call, tmp_path):
    code, _, err = call("--model-dir", tmp_path)
    assert code == 1 and "--eval-only" in err


def test_yaml_that_is_none(call, tmp_path):
    for text, message in (("TRAINER: [", "is not YAML"), ("just words", "holds a str")):
        (tmp_path / "own.yaml").write_text(text)
        code, _, err = call(config=tmp_path / "own.yaml")
        assert code == 1 and message in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_two_processes_do_what_one_does(call, tmp_path, root, reading):
    odd = ["TRAINER.ALIGN.READING", reading]
    odd += ["DATALOADER.TRAIN_X.BATCH_SIZE", "5", "DATALOADER.TEST.BATCH_SIZE", "200", "DATALOADER.NUM_WORKERS", "1"]
    assert call(output=tmp_path / "one", opts=odd)[0] == 0
    words = [word.replace(str(tmp_path / "one"), str(tmp_path / "two")) for word in sys.argv[1:]]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    done = subprocess.run(
        [*launcher, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(p.name for p in (tmp_path / "two").iterdir())
    results, states, tables = [], [], []
    for name in ("one", "two"):
        folder = tmp_path / name
        results.append(json.loads((folder / "results.json").read_text()))
        states.append(torch.load(folder / "MultiModalPromptLearner/model.pth.tar-2")["state_dict"])
        tables.append(list(csv.DictReader((folder / "predictions.csv").open())))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)
    metrics = [
        {k: v for k, v in r["metrics"]["test"].items() if "seconds" not in k and "ms_" not in k} for r in results
    ]
    assert metrics[0] == metrics[1] and results[0]["test_images_sha256"] == results[1]["test_images_sha256"]
    assert [row["path"] for row in tables[0]] == [row["path"] for row in tables[1]] and len(tables[0]) == 500
    probabilities = [[float(row["probability_1"]) for row in table] for table in tables]
    assert probabilities[0] == pytest.approx(probabilities[1], rel=1e-3)


def test_names_that_look_like_numbers_stay_names():
    cfg = train.setup_cfg(train.parse_args(["--output-dir", "2024", "--root", "1e5", "--source-domains", "a", "b"]))
    assert (cfg.OUTPUT_DIR, cfg.DATASET.ROOT, cfg.DATASET.SOURCE_DOMAINS) == ("2024", "1e5", ("a", "b"))


def test_seed_zero_is_a_seed():
    assert train.setup_cfg(train.parse_args(["--seed", "0"])).SEED == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": "/no/such/folder"}, "no folder /no/such/folder"),
        ({"trainer": "ALIGNN"}, r"do you mean \[ALIGN\]"),
        ({"config": "configs/trainers/ALIGN/mimi.yaml"}, "did you mean configs/trainers/ALIGN/mini.yaml"),
        ({"opts": ["DATASET.NAME", "MiniSorce"]}, r"do you mean \[MiniSource\]"),
        ({"opts": ["MODEL.BACKBONE.NAME", "ViT-B/17"]}, "ViT-B/16"),
        ({"opts": ["MODEL.BACKBONE.NAME", "/no/clip.pt"]}, "/no/clip.pt"),
        ({"opts": ["TRAINER.ALIGN.REDING", "paper"]}, "TRAINER.ALIGN.READING"),
        ({"opts": ["TRAINER.ALIGN.VISION_PROMPT_NUMBER", "3"]}, "VISION_PROMPT_NUMBER is 3 and TEXT_PROMPT_NUMBER 4"),
        ({"opts": ["TRAINER.ALIGN.PREC", "fp15"]}, "fp16"),
        ({"opts": ["TRAINER.ALIGN.CTX_INIT", "very " * 80]}, "tokens"),
        ({"opts": ["TRAINER.ALIGN.TEXT_PROMPT_DEPTH", "9", "TRAINER.ALIGN.VISION_PROMPT_DEPTH", "9"]}, "9"),
        ({"opts": ["INPUT.SIZE", "(48, 48)"]}, r"INPUT.SIZE is \(48, 48\).*\(64, 64\)"),
        ({"opts": ["DATASET.SUBSAMPLE_CLASSES", "bass"]}, "base"),
        ({"opts": ["OPTIM.MAX_EPOCH", "two"]}, "OPTIM.MAX_EPOCH|MAX_EPOCH"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_get_one_line(call, change, message):
    code, _, err = call(**change)
    last = err.strip().splitlines()[-1]
    assert code == 1 and last.startswith("train.py: error: ") and re.search(message, last), err
    assert "Traceback" not in err
