"""train.py as a user calls it: whole runs in seconds, plugins, and one line for every mistake."""

import csv
import json
import re
import sys

import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY

import train
from tests.reference.clip_states import vit_state
from tests.reference.layouts import class_folders
from tests.reference.torchrun import torchrun

MINI = "configs/datasets/mini_source.yaml"
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

    def run(*words, output=tmp_path / "run", trainer="ALIGN", config=METHOD, dataset=MINI, data=root, opts=()):
        flags = ["--root", data, "--trainer", trainer, "--seed", "1", "--backbone", backbone, "--output-dir", output]
        files = ["--dataset-config-file", dataset, "--config-file", config]
        small = "DATASET.NUM_SHOTS 1 DATASET.SUBSAMPLE_CLASSES base DATALOADER.NUM_WORKERS 0 OPTIM.MAX_EPOCH 2".split()
        depth = "TRAINER.ALIGN.TEXT_PROMPT_DEPTH 2 TRAINER.ALIGN.VISION_PROMPT_DEPTH 2 TRAIN.CHECKPOINT_FREQ 1".split()
        monkeypatch.setattr(train, "collect_env_info", str)  # starts processes
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*flags, *files, *words, *small, *depth, *opts])])
        return train.main(), *capfd.readouterr()

    return run


def refused(call, *words, **changes):
    """The last line of stderr of a call that fails with one line."""
    code, _, err = call(*words, **changes)
    last = err.strip().splitlines()[-1]
    assert code == 1 and last.startswith("train.py: error: ") and "Traceback" not in err, err
    return last


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_train_test_on_new_classes_and_test_again(call, tmp_path):
    code, out, err = call()
    assert code == 0, err
    for line in ("Finish training", "Finished training", "=> result", "* accuracy: ", "* macro_f1: "):
        assert line in out
    assert re.search(r"epoch \[2/2\] batch \[(\d+)/\1\] time \S+ \(\S+\) data \S+ \(\S+\) loss \S+ \(\S+\) acc", out)
    run = tmp_path / "run"
    base = results(run)
    assert (run / "log.txt").read_text().count("* accuracy: ") == 1
    assert list((run / "tensorboard").iterdir())
    folder = run / "MultiModalPromptLearner"
    assert {p.name for p in folder.iterdir()} == {"checkpoint", "model.pth.tar-1", "model.pth.tar-2"}
    state = torch.load(folder / "model.pth.tar-2", weights_only=True)["state_dict"]
    assert all(name.startswith("prompt_learner.") and "token" not in name for name in state)
    assert sum(value.numel() for value in state.values()) == base["learned_parameters"]

    # the same command again evaluates only; another setting is refused
    code, out, _ = call()
    assert code == 0 and "will resume training" in out and "epoch [" not in out
    assert results(run)["train_seconds"] == base["train_seconds"] > 0
    assert results(run)["metrics"]["test"]["accuracy"] == base["metrics"]["test"]["accuracy"]
    assert "OPTIM.LR was 0.0025 and is now 0.1" in refused(call, opts=["OPTIM.LR", "0.1"])

    assert base["skipped_steps"] == 0 and set(base["transport"]) == {"train", "test"}
    for part in base["transport"].values():
        assert part["token"]["problems"] == 16 * part["prompt"]["problems"] > part["prompt"]["not_converged"] >= 0
        assert all(level["iterations"] >= 1 and level["entropy"] > 0 for level in part.values())
    assert results(run)["transport"]["train"] == base["transport"]["train"]  # kept by the second evaluation

    new = ["DATASET.SUBSAMPLE_CLASSES", "new"]
    code, out, err = call("--eval-only", "--model-dir", run, "--load-epoch", "2", output=tmp_path / "new", opts=new)
    assert code == 0, err
    new = results(tmp_path / "new")
    assert (base["classes"], new["classes"]) == ("base", "new") and base["method"] == "ALIGN"
    assert not set(base["classnames"]) & set(new["classnames"])
    assert new["loaded_from"].endswith("model.pth.tar-2")
    printed = float(re.search(r"\* accuracy: ([\d.]+)%", out)[1])
    assert printed == pytest.approx(new["metrics"]["test"]["accuracy"], abs=0.051)

    words = ["--eval-only", "--model-dir", run, "--load-epoch"]
    assert "it holds epochs 1, 2" in refused(call, *words, "9", output=tmp_path / "nine")
    shallow = ["TRAINER.ALIGN.TEXT_PROMPT_DEPTH", "1", "TRAINER.ALIGN.VISION_PROMPT_DEPTH", "1"]
    for opts in (shallow, ["TRAINER.ALIGN.COUPLING", "independent"]):
        last = refused(call, *words, "1", output=tmp_path / "no", opts=opts)
        assert "model.pth.tar-1" in last and "trained with another method" in last

    assert call(output=tmp_path / "same")[0] == 0
    same = torch.load(tmp_path / "same" / "MultiModalPromptLearner/model.pth.tar-2")["state_dict"]
    assert all(torch.equal(same[name], value) for name, value in state.items())  # the seed decides


@pytest.mark.slow
@pytest.mark.parametrize("method", ["CoOp", "MaPLe", "ALIGN"])
def test_a_rate_that_is_far_too_high_is_no_accuracy(call, tmp_path, method):
    depth = ["TRAINER.MAPLE.PROMPT_DEPTH", "2"] if method == "MaPLe" else []
    words = ["OPTIM.LR", "1e38", "OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", *depth]
    last = refused(call, trainer=method, config=f"configs/trainers/{method}/mini.yaml", opts=words)
    assert re.search(r"(non-finite|NaN or infinite|is nan|is inf).*\.png.*OPTIM\.LR", last), last
    assert not (tmp_path / "run" / "results.json").exists() and not list((tmp_path / "run").glob("*/model*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ZeroshotCLIP", "CoOp"])
def test_a_backbone_with_one_nan_is_refused(call, tmp_path, method):
    state = vit_state(patch=16, grid=4, vision_layers=2, text_layers=2)
    state["visual.proj"][3, 2] = float("nan")
    torch.save(state, tmp_path / "torn.pt")
    words = ["MODEL.BACKBONE.NAME", tmp_path / "torn.pt"]
    last = refused(call, trainer=method, config=f"configs/trainers/{method}/mini.yaml", opts=words)
    assert re.search(r"torn.pt is damaged: visual.proj holds 1 NaN or infinite of \S+ values", last)


@pytest.mark.long
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_two_processes_do_what_one_does(call, tmp_path, root, reading):
    odd = ["TRAINER.ALIGN.READING", reading]
    odd += ["DATALOADER.TRAIN_X.BATCH_SIZE", "5", "DATALOADER.TEST.BATCH_SIZE", "200", "DATALOADER.NUM_WORKERS", "1"]
    assert call(output=tmp_path / "one", opts=odd)[0] == 0
    words = [word.replace(str(tmp_path / "one"), str(tmp_path / "two")) for word in sys.argv[1:]]
    torchrun(["train.py", *words], tmp_path, tmp_path / "two")

    def outcome(folder):
        rows = list(csv.DictReader((folder / "predictions.csv").open()))
        metrics = {k: v for k, v in results(folder)["metrics"]["test"].items() if "seconds" not in k and "ms_" not in k}
        exact = sorted(p.name for p in folder.iterdir()), [row["path"] for row in rows], metrics
        state = torch.load(folder / "MultiModalPromptLearner/model.pth.tar-2")["state_dict"]
        return exact, [float(row["probability_1"]) for row in rows], dict(state)

    one, two = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    assert one[0] == two[0] and len(one[1]) == 516
    assert one[1] == pytest.approx(two[1], rel=1e-3)
    torch.testing.assert_close(two[2], one[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name, gpus, expected",
    [
        ("cpu", 2, (False, [])),
        ("cuda", 2, (True, [])),
        ("cuda:1", 2, (True, ["cuda:1"])),
        ("cuda", 0, "cpu"),
        ("cuda:2", 2, "cpu, cuda, cuda:0, cuda:1"),
        ("gpu", 1, "cpu, cuda, cuda:0"),
    ],
)
def test_devices(name, gpus, expected, monkeypatch):
    """With some pretended GPUs: whether one is used and which was chosen, or the devices that are allowed."""
    chosen, args = [], train.parse_args(["--device", name])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    if isinstance(expected, tuple):
        assert (train.setup_cfg(args).USE_CUDA, chosen) == expected
    else:
        with pytest.raises(ValueError, match=f"no device '{name}'; allowed for --device here: {expected}$"):
            train.setup_cfg(args)


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--output-dir", "~/o", "--model-dir", "~/m", "--resume", "~/r", "MODEL.INIT_WEIGHTS", "~/w.pt"]
    args = train.parse_args(words)
    cfg = train.setup_cfg(args)
    found = cfg.OUTPUT_DIR, args.model_dir, cfg.RESUME, cfg.MODEL.INIT_WEIGHTS
    assert found == ("/home/me/o", "/home/me/m", "/home/me/r", "/home/me/w.pt")
    assert train.setup_cfg(train.parse_args(["OUTPUT_DIR", "~/o"])).OUTPUT_DIR == "/home/me/o"


def test_names_that_look_like_numbers_stay_names_and_zero_is_a_seed():
    words = ["--output-dir", "2024", "--root", "1e5", "--source-domains", "a", "b", "--seed", "0"]
    cfg = train.setup_cfg(train.parse_args(words))
    assert (cfg.OUTPUT_DIR, cfg.DATASET.ROOT, cfg.DATASET.SOURCE_DOMAINS, cfg.SEED) == ("2024", "1e5", ("a", "b"), 0)


PLUGIN = """
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from yacs.config import CfgNode

def extend_cfg(cfg):
    cfg.TRAINER.PIXELS = CfgNode({"WIDTH": 4})

@DATASET_REGISTRY.register()
class Shades(DatasetBase):
    pass
"""


def test_a_plugin_brings_data_set_and_config_node(tmp_path):
    """docs/add-a-method.md has one with a trainer (tests/test_add_a_method.py)."""
    path = tmp_path / "pixels.py"
    path.write_text(PLUGIN)
    for _ in range(2):  # the second time, it is imported already
        cfg = train.setup_cfg(train.parse_args(["--plugin", str(path), "TRAINER.PIXELS.WIDTH", "3"]))
        assert cfg.TRAINER.PIXELS.WIDTH == 3 and "Shades" in DATASET_REGISTRY.registered_names()


@pytest.mark.parametrize(
    "content, words",
    [("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"), ("def f(:", "SyntaxError: ")],
)
def test_a_plugin_that_fails_is_named(call, tmp_path, content, words):
    (tmp_path / "pixels.py").write_text(content)
    assert f"pixels.py cannot be imported: {words}" in refused(call, "--plugin", tmp_path / "pixels.py")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": "/no/such/folder"}, "folder /no/such/folder"),
        ({"trainer": "ALIGNN"}, r"did you mean 'ALIGN'\? \(names from a file of yours: --plugin FILE\)"),
        ({"config": "configs/trainers/ALIGN/mimi.yaml"}, "mimi.yaml; did you mean 'mini.yaml'"),
        ({"config": "LICENSE"}, "LICENSE is not YAML|LICENSE holds a str"),
        ({"words": ["--plugin", "trian.py"]}, r"no such plugin file: trian\.py; did you mean 'train\.py'\?"),
        ({"words": ["--model-dir", "output"]}, "--eval-only"),
        ({"opts": ["MODEL.BACKBONE.NAME", "ViT-B/17"]}, "ViT-B/16"),
        ({"opts": ["MODEL.BACKBONE.NAME", "/no/clip.pt"]}, "/no/clip.pt"),
        ({"opts": ["TRAINER.ALIGN.REDING", "paper"]}, "TRAINER.ALIGN.READING"),
        ({"opts": ["TRAINER.ALIGN.PREC", "fp15"]}, "fp16"),
        ({"opts": ["TRAINER.ALIGN.CTX_INIT", "very " * 80]}, "tokens"),
        ({"opts": ["INPUT.SIZE", "(48, 48)"]}, r"INPUT.SIZE is \(48, 48\).*\(64, 64\)"),
        ({"opts": ["DATASET.SUBSAMPLE_CLASSES", "new"]}, r"'lynx' is the only class \(DATASET.SUBSAMPLE_CLASSES new\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_get_one_line(call, tmp_path, change, message):
    class_folders(tmp_path / "photos", ["cat", "dog", "lynx"])
    change = {"dataset": "configs/datasets/folder.yaml", "data": tmp_path / "photos", **change}
    assert re.search(message, refused(call, *change.pop("words", ()), **change))
