"""What a run leaves: predictions against a recount, hashes, and that nothing is overwritten."""

import csv
import io
import json
import logging
from hashlib import sha256
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY
from torch import nn

from prompting.precision import Precision
from prompting.run_folder import checkpoint_path, read_checkpoint
from tests.reference.layouts import class_folders, put
from trainers.coop import CoOp
from trainers.record import files
from trainers.record.files import lock_folder, missing_files
from trainers.record.predictions import RecordingEvaluator, write_predictions
from trainers.record.results import record_result
from trainers.record.runs import (
    changed_keys,
    check_same_run,
    finished_epochs,
    model_settings,
    seconds_before,
    tensor_hash,
)

NAMES = ["apple", "bell", "cloud", "door", "eel, small", "fox"]


@pytest.fixture
def batches():
    stream = torch.Generator().manual_seed(2)
    return [
        {
            "img": 3 * torch.randn(n, 6, generator=stream),  # the scores themselves
            "label": torch.randint(0, 5, (n,), generator=stream),
            "impath": [f"/data/set/{n}_{i}.png" for i in range(n)],
        }
        for n in (8, 3)
    ]


@pytest.fixture
def record(batches):
    record = RecordingEvaluator(Mock())
    record.reset()
    for batch in batches:
        record.add_paths(batch["impath"])
        record.process(batch["img"], batch["label"])
    assert record.evaluator.process.call_count == len(batches) and record.evaluate() is record.evaluator.evaluate()
    return record


def read_results(folder):
    """Return the content of ``results.json`` and of its archived versions."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("results*.json"), reverse=True)]


def test_predictions_follow_from_the_scores(batches, record):
    rows = list(csv.DictReader(io.StringIO(record.as_csv("/data", NAMES).decode())))
    scores, labels = (torch.cat([batch[key] for batch in batches]) for key in ("img", "label"))
    assert len(rows) == 11 and rows[0]["path"] == "set/8_0.png"
    for row, own, label in zip(rows, scores, labels.tolist()):
        order = own.argsort(descending=True).tolist()
        chances = torch.exp(own) / torch.exp(own).sum()
        assert [int(row[f"top_{k}"]) for k in range(1, 6)] == order[:5]
        for k in range(1, 6):
            assert float(row[f"probability_{k}"]) == pytest.approx(chances[order[k - 1]].item(), rel=1e-4)
        assert (int(row["label"]), row["class"]) == (label, NAMES[label])
        assert (int(row["predicted"]), row["predicted_class"]) == (order[0], NAMES[order[0]])
        assert row["correct"] == str(int(order[0] == label))
    accuracies = record.class_accuracy(6)
    for k in range(6):
        own = [r["correct"] == "1" for r in rows if int(r["label"]) == k]
        assert accuracies[k] == (pytest.approx(100 * sum(own) / len(own)) if own else None)
    assert accuracies[5] is None


def test_outputs_that_start_with_scores_and_few_classes():
    record = RecordingEvaluator(Mock())
    record.process((torch.randn(8, 3), "features"), torch.arange(8) % 3)
    assert all(len(indices) == 3 for indices, _ in record.top)


def test_nothing_is_overwritten(record, tmp_path):
    for _ in range(2):  # the same once more: one file
        write_predictions(record, "test", str(tmp_path), "/data", NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    first = (tmp_path / "predictions.csv").read_text()
    for k in (1, 2):
        record.predicted[0] = (record.predicted[0] + k) % 6
        write_predictions(record, "test", str(tmp_path), "/data", NAMES)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3 and len({path.read_text() for path in files}) == 3
    assert first in {path.read_text() for path in files if path.name != "predictions.csv"}
    write_predictions(record, "val", str(tmp_path), "/data", NAMES)
    assert (tmp_path / "predictions_val.csv").is_file()


def test_batches_without_paths_get_a_warning_and_no_file(record, tmp_path, caplog):
    record.paths = []
    with caplog.at_level(logging.WARNING):
        write_predictions(record, "test", str(tmp_path), "", NAMES)
    assert "saw 11 labels, the batches 0 paths" in caplog.text and not list(tmp_path.iterdir())


def test_changed_keys():
    before = {"OPTIM": {"LR": 0.1, "NAME": "sgd"}, "TEST": {"SPLIT": "test"}, "GONE": 1, "SEED": 1}
    now = {"OPTIM": {"LR": 0.2, "NAME": "sgd"}, "TEST": {"SPLIT": "val"}, "ADDED": 1, "SEED": 2}
    assert changed_keys(before, now) == [("OPTIM.LR", 0.1, 0.2), ("SEED", 1, 2)]


@pytest.mark.parametrize("name, counts", [("Folder", True), ("Csv", True), ("SplitJson", True), ("EuroSAT", False)])
def test_the_root_of_own_data_is_part_of_the_run(name, counts, tmp_path):
    """The root of the other sets says where they are on this machine."""
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    photos, link, other = ({"DATASET": {"NAME": name, "ROOT": str(tmp_path / p)}} for p in ("photos", "link", "other"))
    changed = [("DATASET.ROOT", str(tmp_path / "photos"), str(tmp_path / "other"))]
    assert changed_keys(photos, other) == (changed if counts else []) and changed_keys(photos, link) == []


def test_tensor_hash_sees_names_shapes_and_values():
    a = {"x": torch.arange(6.0), "y": torch.zeros(0)}
    same = {"y": torch.zeros(0), "x": torch.arange(12.0)[:6].clone()}
    assert tensor_hash(a) == tensor_hash(same) == tensor_hash({**a, "x": torch.arange(6.0).requires_grad_()})
    others = [{"z": a["x"], "y": a["y"]}, {**a, "x": a["x"].view(2, 3)}, {**a, "x": a["x"] + 1e-6}, {}]
    assert len({tensor_hash(other) for other in [a, *others]}) == 5


@pytest.fixture
def trainer(make_cfg, tmp_path):
    """As much of a trainer as ``record_result`` looks at."""
    cfg = make_cfg("TRAINER.NAME", "CoOp", "OUTPUT_DIR", str(tmp_path), "SEED", 3)
    images = [SimpleNamespace(impath=f"{i}.png", label=i % 2) for i in range(4)]
    data = SimpleNamespace(train_x=images, val=[], test=images, classnames=NAMES, split_path="none.json")
    return SimpleNamespace(
        cfg=cfg, dm=SimpleNamespace(dataset=data), model=nn.Linear(2, 2), max_epoch=1, device=torch.device("cpu"),
        precision=Precision.resolve("fp32"), output_dir=str(tmp_path),
        model_class=CoOp.model_class, options=CoOp.options, settings=CoOp.settings,
        model_name=CoOp.model_name, saved_part=CoOp.saved_part,
        get_model_names=lambda: [CoOp.model_name],
    )  # fmt: skip


@pytest.mark.parametrize("root", ["~/photos/split.json", "~/photos"])
def test_own_files_are_hashed_and_their_images_named_from_their_folder(trainer, tmp_path, root, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "photos", ["a.png", "b.png", "c.png"])
    rows = {part: [[f"{name}.png", 0, "ant"]] for part, name in (("train", "a"), ("val", "b"), ("test", "c"))}
    content = json.dumps({**rows, "drawn": {"seed": 9}})
    (tmp_path / "photos" / "split.json").write_text(content)
    trainer.cfg.DATASET.NAME, trainer.cfg.DATASET.ROOT = "SplitJson", root
    trainer.dm.dataset = data = DATASET_REGISTRY.get("SplitJson")(trainer.cfg)
    record = RecordingEvaluator(Mock())
    record.process(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    record.paths = [data.test[0].impath]
    record_result(trainer, "test", 75.0, 2.0, record)
    (found,) = read_results(tmp_path)
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1].startswith("c.png,0,ant")
    assert found["split_sha256"] == sha256(content.encode()).hexdigest() and found["split_drawn"] == {"seed": 9}
    for part, name in (("train", "a"), ("val", "b"), ("test", "c")):
        assert found[f"{part}_images_sha256"] == sha256(f"{name}.png\t0\n".encode()).hexdigest()


def test_results_are_complete_and_kept(trainer, record, tmp_path):
    record_result(trainer, "val", 50.0, 1.0, record)
    record_result(trainer, "test", 75.0, 2.0, record)
    (content,) = read_results(tmp_path)
    assert {split: of["accuracy"] for split, of in content["metrics"].items()} == {"val": 50.0, "test": 75.0}
    assert content["metrics"]["test"]["class_accuracy"] == record.class_accuracy(len(NAMES))
    assert (content["seed"], content["config"]["SEED"], content["config"]["TRAINER"]["NAME"]) == (3, 3, "CoOp")
    assert set(content["config"]["TRAINER"]) == {"NAME", "COOP"}
    for key in ("learned_sha256", "train_images_sha256", "test_images_sha256", "versions", "device", "peak_memory_mb"):
        assert content[key]
    record_result(trainer, "test", 75.0, 3.0, record)  # the same again
    assert len(read_results(tmp_path)) == 1
    record_result(trainer, "test", 80.0, 2.0, record)  # another outcome: the old one stays
    assert sorted(kept["metrics"]["test"]["accuracy"] for kept in read_results(tmp_path)) == [75.0, 80.0]
    trainer.cfg.OPTIM.LR = 0.7  # another run
    record_result(trainer, "test", 80.0, 2.0, record)
    assert len(read_results(tmp_path)) == 3


@pytest.mark.parametrize(
    "content, expected", [(None, None), ('{"start_sha256": "abc"}', "abc"), ("{}", None), ("[", None)]
)
def test_loaded_weights_say_what_they_started_from(trainer, record, tmp_path, content, expected):
    """Evaluating the weights of a second stage, whose run.json may be missing or damaged."""
    trainer.loaded_from = str(tmp_path / "trained" / "prompt_learner" / "model.pth.tar-5")
    (tmp_path / "trained").mkdir()
    if content is not None:
        (tmp_path / "trained" / "run.json").write_text(content)
    record_result(trainer, "test", 75.0, 2.0, record)
    assert read_results(tmp_path)[0]["start_sha256"] == expected


@pytest.mark.parametrize("content", ['{"metrics": ', '{"metrics": {}}', '{"config": {}, "loaded_from": null}', "[]"])
def test_a_damaged_file_is_kept_or_named(trainer, record, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    record_result(trainer, "test", 75.0, 2.0, record)
    texts = [path.read_text() for path in tmp_path.glob("results*.json")]
    assert len(texts) == 2 and content in texts
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is damaged \(.*\); move it away, or give another --output-dir"):
        seconds_before(trainer)


def test_a_result_is_done_when_its_files_are_whole(trainer, record, tmp_path):
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    (folder / "model.pth.tar-1").write_bytes(b"tensors")
    record_result(trainer, "test", 75.0, 2.0, record)
    (content,) = read_results(tmp_path)
    assert set(content["files"]) == {"predictions.csv", "prompt_learner/model.pth.tar-1"}
    assert missing_files(tmp_path, content) == []
    for name in content["files"]:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-1])
        assert missing_files(tmp_path, content) == [name]
        (tmp_path / name).unlink()
        assert missing_files(tmp_path, content) == [name]
        (tmp_path / name).write_bytes(whole)


def test_metrics_are_kept_where_the_predictions_cannot_be_written(trainer, record, tmp_path, caplog):
    (tmp_path / "predictions.csv").mkdir()
    (tmp_path / "predictions.csv" / "in the way").touch()
    with caplog.at_level(logging.WARNING):
        record_result(trainer, "test", 75.0, 2.0, record)
    (content,) = read_results(tmp_path)
    assert content["metrics"]["test"]["accuracy"] == 75.0 and missing_files(tmp_path, content) == ["predictions.csv"]
    assert "The result is kept, but not the predictions" in caplog.text and "predictions.csv" in caplog.text


def test_what_custom_data_leave_out_and_turn_is_recorded(trainer, tmp_path):
    class_folders(tmp_path / "photos", ["cat", "dog"])
    put(tmp_path / "photos", ["cat/a.heic"])
    trainer.cfg.DATASET.NAME, trainer.cfg.DATASET.ROOT = "Folder", str(tmp_path / "photos")
    assert not model_settings(trainer).images["turn"]
    trainer.dm.dataset = data = DATASET_REGISTRY.get("Folder")(trainer.cfg)
    record = RecordingEvaluator(Mock())
    record.process(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))
    record.paths = [data.test[0].impath]
    record_result(trainer, "test", 75.0, 2.0, record)
    assert read_results(tmp_path)[0]["image_notes"] == {"left out: named *.heic": 1}
    assert model_settings(trainer).images["turn"]


@pytest.mark.parametrize("error", [OSError(95, "Operation not supported"), NotImplementedError("no locks")])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog, error):
    def fail(lock):
        raise error

    monkeypatch.setattr(files.FileLock, "acquire", fail)
    with caplog.at_level(logging.WARNING):
        lock_folder(tmp_path / "run")
    assert f"{tmp_path / 'run'} cannot be locked ({error}): make sure that no other run uses it" in caplog.text
    assert (tmp_path / "run").is_dir()


def test_an_output_folder_may_be_a_link_and_is_no_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="/file is a file: give another --output-dir"):
        lock_folder(tmp_path / "file")
    (tmp_path / "real").mkdir()
    for name in ("real", "new"):
        (tmp_path / f"link to {name}").symlink_to(tmp_path / name)
        lock_folder(tmp_path / f"link to {name}")
        assert (tmp_path / name / files.LOCK_NAME).is_file()


def test_image_names_that_are_not_utf8(trainer, record, tmp_path):
    record.paths[0] = "/data/set/caf\udce9.png"  # as Python reads b"caf\xe9.png"
    trainer.dm.dataset.test[0].impath = record.paths[0]
    trainer.cfg.DATASET.ROOT = "/data"
    record_result(trainer, "test", 75.0, 2.0, record)
    (content,) = read_results(tmp_path)
    assert missing_files(tmp_path, content) == []
    assert (tmp_path / "predictions.csv").read_bytes().splitlines()[1].startswith(b"set/caf\xe9.png,")


def test_model_folders_and_damaged_checkpoints(tmp_path):
    folder = tmp_path / "run" / "Learner"
    folder.mkdir(parents=True)
    for epoch in (1, 2, 10):
        torch.save({"state_dict": {"w": torch.ones(1)}}, folder / f"model.pth.tar-{epoch}")
    assert checkpoint_path(folder, None).name == "model.pth.tar-10"
    with pytest.raises(
        FileNotFoundError, match=f"{folder} holds epochs 1, 2, 10 itself; name the run's folder, .*run$"
    ):
        checkpoint_path(folder / "Learner", None)
    path = folder / "model.pth.tar-10"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="model.pth.tar-10.*newest whole checkpoint in its folder is that of epoch 2"):
        read_checkpoint(path)
    (folder / "checkpoint").write_text("model-last.pth.tar\n")
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 11}, folder / "model-last.pth.tar")
    assert checkpoint_path(folder, None).name == "model-last.pth.tar" and finished_epochs(tmp_path / "run") == 11


def test_a_folder_refuses_a_run_that_starts_from_other_prompts(trainer, tmp_path):
    trainer.start_file = lambda: "first/prompt_learner/model.pth.tar-5"
    check_same_run(trainer)
    assert json.loads((tmp_path / "run.json").read_text())["start_sha256"] == tensor_hash(trainer.model.state_dict())
    (tmp_path / "results.json").write_text("{}")
    check_same_run(trainer)
    trainer.model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="started from other prompts than first/prompt_learner/model.pth.tar-5 holds"):
        check_same_run(trainer)
