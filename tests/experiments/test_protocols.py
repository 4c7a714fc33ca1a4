"""What the protocols plan: which runs, with which settings, from which checkpoint; and when a run is done."""

import json
import os
import shlex
import subprocess
from functools import reduce
from pathlib import Path

import pytest
from yacs.config import CfgNode

import train
from experiments import protocols
from experiments.protocols import FEWSHOT_SHOTS, METHODS, PROTOCOLS, SUITES, RunDefaults, plan, split_words
from experiments.runs import PROJECT, RunSpec, run_all, state
from trainers.record.runs import method_config


def value(run, key):
    words = run.argv()
    return words[len(words) - 1 - words[::-1].index(key) + 1]  # the last one wins


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_method_has_files_for_every_protocol(protocol):
    for suite in SUITES:
        for run in (run for job in plan(protocol, list(METHODS), [suite], [1], RunDefaults()) for run in job):
            assert (PROJECT / run.config).is_file() and (PROJECT / value(run, "--dataset-config-file")).is_file()
            assert suite != "mini" or run.config.endswith("/mini.yaml")


def test_base_to_new():
    ((trained, tested),) = plan("base2new", ["CoOp"], ["dtd"], [3], RunDefaults("root", Path("out")))
    tail = "dtd/shots_16/CoOp/vit_b16_ctxv1/seed3"
    assert trained.folder == Path("out/base2new/train_base", tail)
    assert tested.folder == Path("out/base2new/test_new", tail)
    assert [value(run, "DATASET.SUBSAMPLE_CLASSES") for run in (trained, tested)] == ["base", "new"]
    assert "--eval-only" not in trained.argv() and "--eval-only" in tested.argv()
    assert value(tested, "--model-dir") == str(trained.folder)
    for run in (trained, tested):
        assert [value(run, key) for key in ("DATASET.NUM_SHOTS", "--seed", "--root")] == ["16", "3", "root"]


@pytest.mark.parametrize("script", PROTOCOLS)
def test_shell_scripts_call_their_protocol_from_any_folder(script, tmp_path):
    words = [PROJECT / "scripts" / f"{script}.sh", "CoOp", "mini", "2", "--set", "DATASET.ROOT", "my data"]
    run = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHON": "echo"}, capture_output=True, text=True)
    assert run.stdout == f"-m experiments.protocols {script} CoOp mini 2 --set DATASET.ROOT my data\n", run.stderr


def test_reproduce_says_how_it_is_called():
    run = subprocess.run(["./reproduce.sh"], cwd=PROJECT / "scripts", capture_output=True, text=True)
    assert run.returncode == 2 and "TABLE (base2new, xd, dg, fewshot) METHOD" in run.stderr


@pytest.mark.parametrize("sweep, tables, written", [(0, 0, True), (1, 0, False), (143, 0, False), (0, 1, False)])
def test_reproduce_replaces_a_table_only_by_a_whole_one(sweep, tables, written, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncase $2 in *sweep) exit {sweep};; *) echo new; exit {tables};; esac\n")
    python.chmod(0o755)
    output = tmp_path / "my output"
    output.mkdir()
    for name in ("xd.md", "xd.csv"):
        (output / name).write_text("old\n")
    env = {**os.environ, "PYTHON": str(python), "OUTPUT": str(output)}
    run = subprocess.run([PROJECT / "scripts" / "reproduce.sh", "xd", "CoOpp"], env=env, capture_output=True, text=True)
    assert (run.returncode == 0) == written, run.stderr
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        name: "new\n" if written else "old\n" for name in ("xd.md", "xd.csv")
    }


@pytest.mark.parametrize(
    "protocol, word, source, targets",
    [
        ("xd", "all", "imagenet", SUITES["all"].targets),
        ("xd", "mini_source", "mini_source", SUITES["mini"].targets),
        ("dg", "mini", "mini_source", SUITES["mini"].shifts),
        ("xd", "dtd", "imagenet", ["dtd"]),
    ],
)
def test_transfer_trains_once_and_tests_on_every_target(protocol, word, source, targets):
    ((trained, *tests),) = plan(protocol, ["MaPLe"], [word], [1], RunDefaults())
    assert trained.dataset == source and value(trained, "DATASET.SUBSAMPLE_CLASSES") == "all"
    assert str(trained.folder).startswith(f"output/xd/train/{source}/shots_16/MaPLe/")
    assert [run.dataset for run in tests] == targets
    for run in tests:
        assert value(run, "--model-dir") == str(trained.folder) and value(run, "DATASET.SUBSAMPLE_CLASSES") == "all"
        assert str(run.folder).startswith(f"output/{protocol}/test/{run.dataset}/shots_16/MaPLe/")


def settings(method, dataset, shots, **defaults):
    """The config of the last few-shot training."""
    (job,) = plan("fewshot", [method], [dataset], [1], RunDefaults(**defaults), [shots])
    return train.setup_cfg(train.parse_args(job[-1].argv()))


# Published epochs for 1, 2, 4, 8 and 16 shots, and for ImageNet.
EPOCHS = {
    **dict.fromkeys(("ALIGN", "MMP", "MaPLe"), ((30, 50, 50, 80, 80), 20)),
    **dict.fromkeys(("CoOp", "PLOT", "PLOTPP", "ProDA", "UPT", "Unified", "ProGrad"), ((50, 100, 100, 200, 200), 50)),
    "PromptSRC": ((50,) * 5, 50),
    "KgCoOp": ((100,) * 5, 100),
    "CoPrompt": ((8,) * 5, 8),
    "MMRL": ((50,) * 5, 5),
}


@pytest.mark.parametrize("method", EPOCHS)
def test_few_shot_epochs_are_those_published(method):
    by_shots, imagenet = EPOCHS[method]
    assert tuple(settings(method, "dtd", shots).OPTIM.MAX_EPOCH for shots in FEWSHOT_SHOTS) == by_shots
    assert settings(method, "imagenet", 4).OPTIM.MAX_EPOCH == imagenet


COPROMPT = ("TRAINER.CoPrompt.PROMPT_DEPTH", "TRAINER.CoPrompt.N_CTX", "TRAINER.W", "OPTIM.MAX_EPOCH")
KGCOOP = ("TRAINER.COOP.N_CTX", "TRAINER.COOP.W", "TRAINER.COOP.CTX_INIT")
MMRL = ("TASK", "TRAINER.MMRL.REG_WEIGHT", "TRAINER.MMRL.REP_DIM", "OPTIM.MAX_EPOCH")
TIP_ADAPTER = (
    "MODEL.BACKBONE.NAME", "TRAINER.TIPADAPTERF.INIT_ALPHA", "TRAINER.TIPADAPTERF.SEARCH_SCALE", "OPTIM.MAX_EPOCH",
)  # fmt: skip
GPA = ("TRAINER.PROMPTSRC.GPA_MEAN", "TRAINER.PROMPTSRC.GPA_STD")


@pytest.mark.parametrize(
    "protocol, method, dataset, shots, keys, values",
    [
        ("base2new", "KgCoOp", "dtd", 16, KGCOOP, (4, 8.0, True)),
        ("fewshot", "KgCoOp", "imagenet", 4, KGCOOP, (4, 8.0, True)),
        ("dg", "KgCoOp", "imagenet_a", 16, KGCOOP, (4, 8.0, True)),
        ("base2new", "ProGrad", "dtd", 16, ("MODEL.BACKBONE.NAME", "LOSS.LAMBDA"), ("ViT-B/16", 1.0)),
        ("fewshot", "ProGrad", "dtd", 8, ("MODEL.BACKBONE.NAME", "LOSS.LAMBDA"), ("RN50", 0.8)),
        ("fewshot", "ProGrad", "dtd", 4, ("LOSS.LAMBDA",), (1.0,)),
        ("fewshot", "ProGrad", "caltech101", 16, ("LOSS.LAMBDA",), (1.0,)),
        ("fewshot", "PromptSRC", "eurosat", 1, GPA, (45, 5)),
        ("fewshot", "PromptSRC", "food101", 16, GPA, (30, 30)),
        ("base2new", "PromptSRC", "eurosat", 16, GPA, (15, 1)),
        ("xd", "PromptSRC", "eurosat", 16, GPA, (6, 10)),
        ("base2new", "CoPrompt", "food101", 16, COPROMPT, (9, 4, 0.5, 5)),
        ("base2new", "CoPrompt", "dtd", 16, COPROMPT, (12, 2, 8.0, 8)),
        ("xd", "CoPrompt", "dtd", 16, COPROMPT, (12, 4, 8.0, 8)),  # of the source
        ("base2new", "TCP", "sun397", 16, ("OPTIM.MAX_EPOCH",), (25,)),
        ("base2new", "MMRL", "eurosat", 16, MMRL, ("B2N", 0.01, 2048, 10)),
        ("fewshot", "MMRL", "stanford_cars", 1, MMRL, ("FS", 7.0, 512, 50)),
        ("fewshot", "MMRL", "imagenet", 4, MMRL, ("FS", 0.5, 512, 5)),
        ("dg", "MMRL", "imagenet_a", 16, MMRL, ("CD", 0.2, 512, 1)),
        ("fewshot", "TipAdapterF", "oxford_flowers", 4, TIP_ADAPTER, ("RN50", 10.0, (50.0, 50.0), 20)),
        ("fewshot", "TipAdapterF", "eurosat", 4, TIP_ADAPTER, ("RN50", 2.0, (12.0, 10.0), 100)),
    ],
)
def test_published_options(protocol, method, dataset, shots, keys, values):
    """In the training and in its tests; none over the YAML file of the mini suite."""
    (job,) = plan(protocol, [method], [dataset], [1], RunDefaults(), [shots])
    for run in job:
        cfg = train.setup_cfg(train.parse_args(run.argv()))
        assert tuple(reduce(CfgNode.__getitem__, key.split("."), cfg) for key in keys) == values
    (job,) = plan("base2new", [method], ["mini_source"], [1], RunDefaults())
    assert not any(key in run.argv() for run in job for key in keys)


def test_options_of_the_user_precede_those_of_a_data_set():
    assert settings("PLOT", "imagenet", 1).TRAINER.PLOT.TRADE_OFF is True
    assert settings("PLOT", "imagenet", 1, options=("TRAINER.PLOT.TRADE_OFF", "False")).TRAINER.PLOT.TRADE_OFF is False
    assert settings("PLOT", "stanford_cars", 1).DATALOADER.TRAIN_X.BATCH_SIZE == 32
    assert settings("PLOT", "stanford_cars", 1, config="rn50").DATALOADER.TRAIN_X.BATCH_SIZE == 128


def test_a_training_free_method_has_one_run_for_all_shots():
    ((run,),) = plan("fewshot", ["ZeroshotCLIP"], ["mini_source"], [1], RunDefaults())
    assert value(run, "DATASET.NUM_SHOTS") == "0"
    ((_, tested),) = plan("base2new", ["ZeroshotCLIP"], ["dtd"], [1], RunDefaults())
    assert "--model-dir" not in tested.argv()


@pytest.mark.parametrize("as_file", [False, True])
def test_a_method_without_settings_takes_a_config_file(as_file, tmp_path, monkeypatch):
    monkeypatch.delitem(METHODS, "UPT")
    message = "protocols.yaml has no settings for UPT in xd .* --config-file .*vit_b16_ep50"
    with pytest.raises(ValueError, match=message):
        plan("xd", ["UPT"], ["dtd"], [1], RunDefaults())
    assert "UPT" not in {job[0].method for job in plan("xd", ["all"], ["dtd"], [1], RunDefaults())}
    config = "vit_b16_ep50"
    if as_file:
        (tmp_path / "mine.yaml").write_text((PROJECT / f"configs/trainers/UPT/{config}.yaml").read_text())
        config = str(tmp_path / "mine.yaml")
    defaults = RunDefaults(config=config, options=("OPTIM.MAX_EPOCH", "7"))
    ((trained, _),) = plan("xd", ["UPT"], ["dtd"], [1], defaults)
    assert Path(trained.config).stem == Path(config).stem == trained.folder.parent.name
    assert train.setup_cfg(train.parse_args(trained.argv())).OPTIM.MAX_EPOCH == 7


def test_words_are_data_sets_and_seeds():
    every = ["all"], [1, 2, 3]
    for words, expected in {"": every, "all all": every, "1 dtd 2": (["dtd"], [1, 2])}.items():
        assert split_words(words.split()) == expected
    assert split_words(["dtd,eurosat", "1,2"]) == (["dtd", "eurosat"], [1, 2])


@pytest.mark.parametrize(
    "protocol, method, datasets, config, message",
    [
        ("base2now", "ALIGN", ["dtd"], "", "protocol is 'base2now'.* did you mean 'base2new'"),
        ("base2new", "ALINE", ["dtd"], "", "method is 'ALINE'.* did you mean 'ALIGN'"),
        ("base2new", "ALIGN", ["dtb"], "", "data set is 'dtb'.* did you mean 'dtd'"),
        ("dg", "ALIGN", ["mini_pixel", "imagenet_a"], "", "target of dg from mini_source is 'imagenet_a'"),
        ("base2new", "CoOp", ["dtd"], "nothing", "CoOp has no configs/trainers/CoOp/nothing.yaml"),
        ("base2new", "CoOp", ["dtd"], "my/nothing.yaml", "CoOp has no my/nothing.yaml; name .* --config"),
    ],
)
def test_mistakes_get_one_line(protocol, method, datasets, config, message):
    with pytest.raises(ValueError, match=message) as error:
        plan(protocol, [method], datasets, [1], RunDefaults(config=config))
    assert "\n" not in str(error.value)


# ---- when a run is done


@pytest.fixture
def job(tmp_path):
    return plan("base2new", ["CoOp"], ["mini_source"], [1], RunDefaults(output=tmp_path))[0]


def finish(run, split="test", learned="x", start=None, **changed):
    """Write the part of results.json that the state of a run depends on."""
    config = method_config(train.setup_cfg(train.parse_args(run.argv())), run.method)
    config["OPTIM"].update(changed)
    run.results_file.parent.mkdir(parents=True, exist_ok=True)
    content = {"config": config, "metrics": {split: {"accuracy": 1.0}}, "learned_sha256": learned}
    content.update(method=run.method, backbone="mini", start_sha256=start)
    run.results_file.write_text(json.dumps(content))


def test_done_begun_and_to_do(job):
    trained, tested = job
    assert state(trained) == "to do"
    finish(trained, split="val")  # validated after an epoch: not finished
    trained.results_file.with_name("run.json").write_text("{}")
    assert state(trained) == "begun"
    finish(trained)
    assert state(trained) == "done" and state(tested) == "to do"
    finish(tested)
    assert state(tested) == "done"
    content = json.loads(tested.results_file.read_text())
    tested.results_file.write_text(json.dumps({**content, "files": {"predictions.csv": "0" * 64}}))
    assert state(tested) == "to do"  # a promised file is missing
    finish(tested)
    finish(trained, learned="y")  # trained again since it was tested
    assert [state(trained), state(tested)] == ["done", "to do"]


def test_a_second_stage_follows_the_first_and_is_done_only_with_the_present_first_stage(tmp_path):
    ((first, second),) = plan("fewshot", ["PLOTPP"], ["dtd"], [1], RunDefaults(output=tmp_path), [16])
    assert value(second, "TRAINER.PLOTPP.PRETRAIN_DIR") == str(first.folder)
    assert "first_stage" in first.folder.parts and "fewshot" in second.folder.parts
    finish(first, learned="x")
    finish(second, learned="y", start="x")
    assert [state(first), state(second)] == ["done", "done"]
    record = second.results_file.with_name("run.json")
    record.write_text('{"start_sha256": "x"}')
    finish(first, learned="z")  # trained again
    assert [state(first), state(second)] == ["done", "to do"]  # not "begun": it will not resume
    record.write_text('{"start_sha256": "z"}')
    assert state(second) == "begun"
    finish(second, learned="y")  # of a version that did not record it
    assert state(second) == "done"


def test_other_settings_in_the_folder_are_refused(job, tmp_path):
    finish(job[0], LR=0.5)
    with pytest.raises(ValueError, match=r"other settings: OPTIM.LR was 0.5 and is now 0.0\d+; give another"):
        run_all(job, quiet=True)
    photos, others = (  # of custom data, the root too is a setting
        plan("base2new", ["CoOp"], ["folder"], [1], RunDefaults(str(tmp_path / root), tmp_path, "vit_b16_ctxv1"))[0][0]
        for root in ("photos", "others")
    )
    finish(photos)
    assert state(photos) == "done"
    with pytest.raises(ValueError, match=r"other settings: DATASET.ROOT was '.*/photos' and is now '.*/others'; give"):
        state(others)


@pytest.mark.slow
def test_a_run_that_fails_is_named_with_the_last_line_of_its_output(tmp_path):
    run = RunSpec("CoOp", "mini_source", "nowhere.yaml", tmp_path, 1, 1)
    message = f"{run.folder} failed: train.py: error: no such config file: nowhere.yaml"
    with pytest.raises(RuntimeError, match=message):
        run_all([run], quiet=True)


def test_dry_run_prints_the_commands(call_main, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "my data")
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    jobs = plan("base2new", ["CoOp"], ["mini_source"], [1], RunDefaults("my data", tmp_path))
    finish(jobs[0][0])
    code, out, _ = call_main(protocols, "base2new", "CoOp", "mini_source", "1", "--dry-run")
    expected = [["python", "train.py", *run.argv()] for job in jobs for run in job]
    assert code == 0 and [shlex.split(line[7:]) for line in out.splitlines()] == expected
    assert [line[:7] for line in out.splitlines()] == ["done   ", "to do  "]
