"""What the protocols plan: which runs, on what, from where, with which settings; and what counts as done."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import train
from scripts import protocols
from scripts.protocols import CONFIGS, FEWSHOT, LEARNS_NOTHING, PROTOCOLS, SUITES, Place, plan, split_words
from scripts.runs import PROJECT, Run, is_done, run_all, state
from trainers import METHODS
from trainers.record.runs import method_config

NAMES = [method.__name__ for method in METHODS]


def value(run, key):
    words = list(run.words)
    return words[len(words) - 1 - words[::-1].index(key) + 1]  # the last one wins


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", NAMES)
def test_every_method_has_settings_for_every_protocol(method, protocol, suite):
    for job in plan(protocol, [method], [suite], [1], Place()):
        for run in job.runs:
            for flag in ("--config-file", "--dataset-config-file"):
                assert (PROJECT / value(run, flag)).is_file()
            if suite == "mini":
                assert value(run, "--config-file").endswith("/mini.yaml")


def test_the_table_names_registered_methods_only():
    assert set(CONFIGS) <= set(NAMES)


def test_base_to_new():
    (job,) = plan("base2new", ["CoOp"], ["dtd"], [3], Place("root", Path("out")))
    trained, tested = job.runs
    tail = "dtd/shots_16/CoOp/vit_b16_ctxv1/seed3"
    assert (str(trained.folder), str(tested.folder)) == (
        f"out/base2new/train_base/{tail}", f"out/base2new/test_new/{tail}"
    )  # fmt: skip
    assert [value(run, "DATASET.SUBSAMPLE_CLASSES") for run in job.runs] == ["base", "new"]
    assert "--eval-only" not in trained.words and "--eval-only" in tested.words
    assert value(tested, "--model-dir") == str(trained.folder) and tested.trained is trained
    assert {value(run, "DATASET.NUM_SHOTS") for run in job.runs} == {"16"}
    assert {value(run, "--seed") for run in job.runs} == {"3"} and {value(run, "--root") for run in job.runs} == {
        "root"
    }


def test_coops_base_to_new_has_fewer_epochs_on_imagenet():
    for dataset, config in (("imagenet", "vit_b16_ep50_ctxv1"), ("caltech101", "vit_b16_ctxv1")):
        (job,) = plan("base2new", ["CoOp"], [dataset], [1], Place())
        assert {value(run, "--config-file") for run in job.runs} == {f"configs/trainers/CoOp/{config}.yaml"}


def test_the_demo_is_base_to_new_in_a_folder_of_its_own():
    job = protocols.base2new("ALIGN", "mini_source", 1, Place(output=Path("output/demo")), under="")
    tail = "mini_source/shots_16/ALIGN/mini/seed1"
    assert [str(run.folder) for run in job.runs] == [
        f"output/demo/{part}/{tail}" for part in ("train_base", "test_new")
    ]
    assert [run.part for run in job.runs] == ["train on base", "test on new"]


@pytest.mark.parametrize("script", PROTOCOLS)
def test_shell_scripts_say_the_same(script, tmp_path):
    """From any folder; DATA and OUTPUT are read from the environment."""
    env = {**os.environ, "PYTHON": sys.executable, "DATA": "my data", "OUTPUT": "out"}
    words = [PROJECT / "scripts" / f"{script}.sh", "CoOp", "mini", "2", "--dry-run"]
    run = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    place = Place("my data", Path("out"))
    wanted = [run for job in plan(script, ["CoOp"], ["mini"], [2], place) for run in job.runs]
    assert [line.split(maxsplit=1)[0] for line in run.stdout.splitlines()] == ["to"] * len(wanted)
    assert [shlex.split(line)[4:] for line in run.stdout.splitlines()] == [list(run.words) for run in wanted]


def test_reproduce_says_how_it_is_called():
    run = subprocess.run([PROJECT / "scripts" / "reproduce.sh"], capture_output=True, text=True)
    assert run.returncode == 2 and "TABLE (base2new, xd, dg, fewshot) METHOD" in run.stderr


@pytest.mark.parametrize(
    "protocol, word, source, targets",
    [
        ("xd", "all", "imagenet", SUITES["all"].others),
        ("xd", "mini_source", "mini_source", SUITES["mini"].others),
        ("dg", "all", "imagenet", ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")),
        ("dg", "mini", "mini_source", SUITES["mini"].shifts),
        ("xd", "dtd", "imagenet", ("dtd",)),
    ],
)
def test_transfer_trains_once_and_tests_on_every_target(protocol, word, source, targets):
    (job,) = plan(protocol, ["MaPLe"], [word], [1], Place())
    trained, *tests = job.runs
    assert trained.dataset == source and value(trained, "DATASET.SUBSAMPLE_CLASSES") == "all"
    assert str(trained.folder).startswith(f"output/xd/train/{source}/shots_16/MaPLe/")
    assert tuple(run.dataset for run in tests) == targets
    for run in tests:
        assert value(run, "--model-dir") == str(trained.folder) and value(run, "DATASET.SUBSAMPLE_CLASSES") == "all"
        assert str(run.folder).startswith(f"output/{protocol}/test/{run.dataset}/shots_16/MaPLe/")


def settings(method, dataset, shots, protocol="fewshot", **place):
    """The config of the last training run."""
    job = plan(protocol, [method], [dataset], [1], Place(**place), [shots])[0]
    return train.setup_cfg(train.parse_args([run for run in job.runs if run.trained is None][-1].words))


# Epochs for 1, 2, 4, 8 and 16 shots, and for ImageNet. ALIGN's train.py sets those of every method it runs.
FEWSHOT_EPOCHS = {
    **dict.fromkeys(("ALIGN", "MMP", "MaPLe"), ((30, 50, 50, 80, 80), 20)),
    **dict.fromkeys(("CoOp", "PLOT", "PLOTPP", "ProDA", "UPT"), ((50, 100, 100, 200, 200), 50)),
    **dict.fromkeys(("VPT", "IVLP"), ((5,) * 5, 5)),  # base-to-new's, as nobody published any for few shots
    "CoCoOp": ((10,) * 5, 10),
}


@pytest.mark.parametrize("method", [name for name in NAMES if name not in LEARNS_NOTHING])
def test_few_shot_epochs_go_by_shots(method):
    by_shots, imagenet = FEWSHOT_EPOCHS[method]
    assert tuple(settings(method, "dtd", shots).OPTIM.MAX_EPOCH for shots in FEWSHOT) == by_shots
    assert {settings(method, "imagenet", shots).OPTIM.MAX_EPOCH for shots in FEWSHOT} == {imagenet}


@pytest.mark.parametrize("protocol", ["base2new", "fewshot"])
@pytest.mark.parametrize("method", ["ALIGN", "MMP"])
def test_sun397_has_fewer_prompts_and_a_lower_rate(method, protocol):
    for shots in FEWSHOT:
        found = {}
        for dataset in ("sun397", "dtd"):
            cfg = settings(method, dataset, shots, protocol)
            own = cfg.TRAINER[method]
            found[dataset] = own.TEXT_PROMPT_NUMBER, own.VISION_PROMPT_NUMBER, cfg.OPTIM.LR
        assert found == {"sun397": (2, 2, 0.002), "dtd": (4, 4, 0.0025)}


def test_plots_few_shot_settings_by_data_set():
    """Batches of 32 for Flowers, Aircraft and Cars; global logits for ImageNet."""
    for shots in FEWSHOT:
        found = {}
        for dataset in ("oxford_flowers", "fgvc_aircraft", "stanford_cars", "dtd", "imagenet"):
            cfg = settings("PLOT", dataset, shots)
            found[dataset] = cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.TRAINER.PLOT.TRADE_OFF
        assert found == {
            "oxford_flowers": (32, False), "fgvc_aircraft": (32, False), "stanford_cars": (32, False),
            "dtd": (128, False), "imagenet": (128, True),
        }  # fmt: skip


def test_what_the_user_asks_for_goes_before_a_data_sets_settings():
    assert settings("PLOT", "imagenet", 1, words=("TRAINER.PLOT.TRADE_OFF", "False")).TRAINER.PLOT.TRADE_OFF is False
    assert settings("PLOT", "stanford_cars", 1, config="rn50").DATALOADER.TRAIN_X.BATCH_SIZE == 128


def test_two_stages_follow_one_another():
    (job,) = plan("fewshot", ["PLOTPP"], ["dtd"], [1], Place(), [16])
    first, second = job.runs
    assert value(second, "TRAINER.PLOTPP.PRETRAIN_DIR") == str(first.folder)
    assert "TRAINER.PLOTPP.PRETRAIN_DIR" not in first.words
    assert "first_stage" in first.folder.parts and "fewshot" in second.folder.parts


def test_without_learning_there_is_one_run_for_all_shots():
    (job,) = plan("fewshot", list(LEARNS_NOTHING), ["mini_source"], [1], Place())
    assert value(job.runs[0], "DATASET.NUM_SHOTS") == "0"
    tested = plan("base2new", list(LEARNS_NOTHING), ["dtd"], [1], Place())[0].runs[1]
    assert "--model-dir" not in tested.words


def test_own_words_and_config_win():
    place = Place(config="vit_b16_c2_ep5_batch4_2ctx", words=("OPTIM.MAX_EPOCH", "7"))
    (job,) = plan("xd", ["MaPLe"], ["dtd"], [1], place)
    assert value(job.runs[0], "--config-file").endswith("vit_b16_c2_ep5_batch4_2ctx.yaml")
    assert train.setup_cfg(train.parse_args(list(job.runs[0].words))).OPTIM.MAX_EPOCH == 7


@pytest.mark.parametrize(
    "words, datasets, seeds",
    [
        ([], ["all"], [1, 2, 3]),
        (["dtd", "1"], ["dtd"], [1]),
        (["1", "dtd", "2"], ["dtd"], [1, 2]),
        (["dtd,eurosat", "1,2"], ["dtd", "eurosat"], [1, 2]),
        (["all", "all"], ["all"], [1, 2, 3]),
        (["2", "mini"], ["mini"], [2]),
    ],
)
def test_words_are_data_sets_and_seeds(words, datasets, seeds):
    assert split_words(words) == (datasets, seeds)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("base2now", ["ALIGN"], ["dtd"]), r"did you mean base2new"),
        (("base2new", ["ALINE"], ["dtd"]), r"no settings for method ALINE \(did you mean ALIGN"),
        (("base2new", ["ALIGN"], ["dtb"]), r"no data set dtb \(did you mean dtd"),
        (("dg", ["ALIGN"], ["mini_clutter", "imagenet_a"]), "imagenet_a is no target of dg from mini_source"),
    ],
)
def test_mistakes_get_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        plan(*arguments, [1], Place())
    assert "\n" not in str(error.value)


def test_no_settings_and_no_such_file():
    with pytest.raises(
        ValueError, match="CoOp has no settings for fewshot on dtd with 3 shots; name one with --config"
    ):
        plan("fewshot", ["CoOp"], ["dtd"], [1], Place(), [3])
    with pytest.raises(ValueError, match="CoOp has no nothing.yaml"):
        plan("base2new", ["CoOp"], ["dtd"], [1], Place(config="nothing"))


# ---- what is done


@pytest.fixture
def job(tmp_path):
    return plan("base2new", ["CoOp"], ["mini_source"], [1], Place(output=tmp_path))[0]


def finish(run, split="test", learned="x", start=None, **changed):
    """Write the results.json that a run leaves, as far as one looks at it."""
    config = method_config(train.setup_cfg(train.parse_args(list(run.words))), run.method)
    config["OPTIM"].update(changed)
    run.results.parent.mkdir(parents=True, exist_ok=True)
    content = {"config": config, "metrics": {split: {"accuracy": 1.0}}, "learned_sha256": learned}
    content.update(method=run.method, backbone="mini", start_sha256=start)
    run.results.write_text(json.dumps(content))


def test_done_begun_and_to_do(job):
    trained, tested = job.runs
    assert state(trained) == "to do"
    finish(trained, split="val")  # validated after an epoch: not finished
    (trained.results.parent / "run.json").write_text("{}")
    assert state(trained) == "begun"
    finish(trained)
    assert state(trained) == "done" and state(tested) == "to do"
    finish(tested)
    assert is_done(tested)
    finish(trained, learned="y")  # trained anew since it was tested
    assert is_done(trained) and not is_done(tested)


def test_a_second_stage_is_done_only_with_the_first_one_as_it_is_now(tmp_path):
    (job,) = plan("fewshot", ["PLOTPP"], ["dtd"], [1], Place(output=tmp_path), [16])
    first, second = job.runs
    finish(first, learned="x")
    finish(second, learned="y", start="x")
    assert [state(run) for run in job.runs] == ["done", "done"]
    asked = second.results.parent / "run.json"
    asked.write_text('{"start_sha256": "x"}')
    finish(first, learned="z")  # trained anew
    assert [state(run) for run in job.runs] == ["done", "to do"]  # no "begun": it will not resume
    asked.write_text('{"start_sha256": "z"}')
    assert state(second) == "begun"
    finish(second, learned="y")  # of a version that did not say
    assert is_done(second)


def test_other_settings_in_the_folder_are_refused(job):
    finish(job.runs[0], LR=0.5)
    with pytest.raises(ValueError, match=r"other settings: OPTIM.LR was 0.5 and is now 0.0\d+; give another"):
        run_all(job.runs, quiet=True)


def test_other_own_data_in_the_folder_is_refused(tmp_path):
    first, second = (
        plan("base2new", ["CoOp"], ["folder"], [1], Place(str(tmp_path / root), tmp_path / "out", "vit_b16_ctxv1"))[0]
        for root in ("photos", "others")
    )
    finish(first.runs[0])
    assert is_done(first.runs[0])
    with pytest.raises(ValueError, match=r"other settings: DATASET.ROOT was '.*/photos' and is now '.*/others'; give"):
        is_done(second.runs[0])


def test_a_run_that_fails_is_named_with_its_last_words(tmp_path):
    run = Run("CoOp", "mini_source", 1, "train", tmp_path, ("--config-file", "nowhere.yaml"))
    with pytest.raises(RuntimeError, match=f"{tmp_path} failed: train.py: error: no such config file: nowhere.yaml"):
        run_all([run], quiet=True)


def test_dry_run_prints_the_commands(job, call_main, tmp_path):
    finish(job.runs[0])
    words = ("--output", tmp_path, "--dry-run")
    code, out, _ = call_main(protocols, "base2new", "CoOp", "mini_source", "1", *words)
    first, second = out.splitlines()
    assert code == 0
    assert first.startswith("done   python train.py --root data") and second.startswith("to do  python train.py")
    code, _, err = call_main(protocols, "base2new", "CoOp", "mini_sauce", *words)
    assert code == 1 and err.startswith("protocols: error: no data set mini_sauce (did you mean mini_source?)")
