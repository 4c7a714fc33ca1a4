"""Results are found in every layout of the family, or the folder says why not."""

from __future__ import annotations

import json
import os

import pytest

from experiments.collect import ALL_KEYS, collect, read_log, read_results_file
from tests.reference.run_trees import LOG_05, LOG_06, LOG_TEST, write_log, write_result

# Folder, and (method, dataset, part, shots, seed) that it says: of CoOp, CoCoOp, MaPLe, PLOT, ALIGN and ours.
LAYOUTS = {
    "base2new/train_base/dtd/shots_16/CoCoOp/vit_b16_c4/seed2": ("CoCoOp", "dtd", "base", 16, 2),
    "base2new/test_new/dtd/shots_16/MaPLe/vit_b16_c2/seed3": ("MaPLe", "dtd", "new", 16, 3),
    "imagenet/MaPLe/vit_b16_c2_ep5_batch4_2ctx_cross_datasets_16shots/seed1": ("MaPLe", "imagenet", "all", 16, 1),
    "evaluation/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1_16shots/eurosat/seed1": ("CoCoOp", "eurosat", "target", 16, 1),
    "caltech101/CoOp/rn50_ep50_1shots/nctx16_cscFalse_ctpend/seed1": ("CoOp", "caltech101", "all", 1, 1),
    "output/OP_N4/dtd/CoOp/RN50_8shots/nctx16_cscFalse_ctpend/seed2": ("PLOT", "dtd", "all", 8, 2),  # PLOT's script
    "output_joint/OP_N4/dtd/PLOTPP/vit_8shots/nctx4_cscFalse_ctpend/seed2": ("PLOTPP", "dtd", "all", 8, 2),
    "evaluation/CoOp/rn50_16shots/nctx16_cscFalse_ctpend/imagenet_a/seed3": ("CoOp", "imagenet_a", "target", 16, 3),
    "output/ZeroshotCLIP/vit_b16/dtd": ("ZeroshotCLIP", "dtd", "all", 0, 1),
    "fewshot/ucf101/MaPLe_2/shots_4/seed1": ("MaPLe_2", "ucf101", "all", 4, 1),
    "xd/train/imagenet/shots_16/ALIGN/vit_b16_base2new/seed1": ("ALIGN", "imagenet", "source", 16, 1),
    "dg/test/imagenet_a/shots_16/ALIGN/vit_b16_base2new/seed1": ("ALIGN", "imagenet_a", "target", 16, 1),
    "fewshot/dtd/shots_2/UPT/vit_b16_ep100/seed1": ("UPT", "dtd", "all", 2, 1),
}


@pytest.mark.parametrize("folder, said", LAYOUTS.items(), ids=list(LAYOUTS))
@pytest.mark.parametrize("ours", [True, False], ids=["results.json", "log"])
def test_layouts(folder, said, ours, tmp_path):
    if ours:
        write_result(tmp_path / folder, 93.25, method=said[0])
    else:
        write_log(tmp_path / folder, 93.3, LOG_TEST)
    (found,), notes = collect(tmp_path)
    assert (found.method, found.dataset, found.part, found.shots, found.seed) == said
    assert found.accuracy == (93.25 if ours else 93.3)
    assert found.backbone == "ViT-B/16" and not notes


def test_a_base_half_that_was_tested_again_counts_once(tmp_path):
    tail = "shots_16/MaPLe/c"
    for part, form in (("train_base", LOG_06), ("test_base", LOG_TEST), ("test_new", LOG_TEST)):
        write_log(tmp_path / f"base2new/{part}/dtd/{tail}/seed1", {"train_base": 80.0}.get(part, 79.0), form)
    write_log(tmp_path / f"base2new/train_base/dtd/{tail}/seed2", 81.0, LOG_06)  # not tested again
    found, notes = collect(tmp_path)
    assert sorted((one.part, one.seed, one.accuracy) for one in found) == [
        ("base", 1, 79.0), ("base", 2, 81.0), ("new", 1, 79.0)
    ]  # fmt: skip
    assert not notes


@pytest.mark.parametrize("folder", ["ZeroshotCLIP/mini/seed1", "runs/CoOp/seed1", "dtd/CoOp/shots_x/seed1"])
def test_a_folder_that_says_too_little(folder, tmp_path):
    write_log(tmp_path / folder, 93.3, LOG_TEST)
    found, (note,) = collect(tmp_path)
    assert not found and "does not say data set" in note


def test_the_folder_of_settings_is_part_of_the_config(tmp_path):
    write_log(tmp_path / "dtd/CoOp/rn50_8shots/nctx16_cscFalse_ctpend/seed2", 93.3, LOG_TEST)
    ((found,), _) = collect(tmp_path)
    assert found.config == "rn50/nctx16_cscFalse_ctpend"


def test_results_in_a_folder_of_any_name(tmp_path):
    more = {"dataset": "MiniSource", "classes": "new", "shots": 8, "seed": 5}
    write_result(tmp_path / "my" / "run", 50.5, **more)
    (found,), _ = collect(tmp_path)
    assert (found.dataset, found.part, found.shots, found.seed) == ("mini_source", "new", 8, 5)


@pytest.mark.parametrize("end", ["Finish training", "Finished training"])
@pytest.mark.parametrize("form", [LOG_05, LOG_06])
def test_both_end_markers_and_both_forms(form, end):
    assert read_log(form.format(accuracy=93.3, end=end, backbone="RN50")) == 93.3


def test_our_own_engine_prints_both_markers_in_a_row():
    assert read_log(LOG_06.format(accuracy=64.0, end="Finish training\nFinished training", backbone="x")) == 64.0


@pytest.mark.parametrize(
    "text, reason",
    [
        (LOG_06.format(accuracy=1, end="", backbone=""), "did not finish"),
        (LOG_05.split("{end}")[0] + "Finish training\n", "nothing was evaluated .* after the end"),
        ("Loading trainer: CoOp\n", "nothing was evaluated .* in it"),
        ("=> result\n* error: 3%\n", "no line"),
    ],
)
def test_why_a_log_gives_nothing(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_log(text)


def test_every_log_of_a_folder_is_read_newest_first(tmp_path):
    folder = tmp_path / "evaluation/CoOp/vit_16shots/dtd/seed1"
    write_log(folder, 40.0, LOG_TEST, name="log.txt")
    write_log(folder, 50.0, LOG_TEST, name="log.txt-2024-01-01-00-00-00")
    (folder / "log.txt-2024-01-02-00-00-00").write_text("interrupted\n")
    for i, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (i, i))
    (found,), _ = collect(tmp_path)
    assert found.accuracy == 50.0


def test_every_folder_without_result_says_why(tmp_path):
    write_log(tmp_path / "somewhere", 50.0, LOG_TEST)
    write_log(tmp_path / "evaluation/CoOp/vit_16shots/dtd/seed1", 50.0, "nothing\n")
    write_result(tmp_path / "c", 1.0, metrics={"val": {"accuracy": 1}})
    found, notes = collect(tmp_path)
    assert not found and len(notes) == 3
    reasons = {note.split(": ")[0].rsplit("/", 1)[1]: note for note in notes}
    assert "does not say data set" in reasons["somewhere"]
    assert "log.txt: nothing was evaluated" in reasons["seed1"]
    assert "not tested yet" in reasons["c"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        collect(tmp_path / "none")


GOOD = {"method": "CoOp", "backbone": "x", "dataset": "Set", "classes": "all", "shots": 16, "seed": 1}
DAMAGED = {
    "cut short": ('{"method": "CoOp", "metrics": {"te', "is damaged (Unterminated string"),
    "empty": ("", "is damaged (Expecting value"),
    "no text": (b"\xff\xfe\x00", "is damaged ('utf-8' codec"),
    "a list": ("[]", "a list instead of keys"),
    "no metrics": (json.dumps(GOOD), "'metrics' is missing"),
    "metrics of another kind": (json.dumps({**GOOD, "metrics": [1]}), "'metrics' is a list; allowed: a dict"),
    "a split of another kind": (
        json.dumps({**GOOD, "metrics": {"test": 3}}),
        "no accuracy between 0 and 100 in the metrics of 'test'",
    ),
    "accuracy in words": (json.dumps({**GOOD, "metrics": {"test": {"accuracy": "good"}}}), "no accuracy"),
    "accuracy not a number": (json.dumps({**GOOD, "metrics": {"test": {"accuracy": float("nan")}}}), "no accuracy"),
    "seed in words": (json.dumps({**GOOD, "seed": "one", "metrics": {}}), "'seed' is a str; allowed: a int"),
}


@pytest.mark.parametrize(("content", "reason"), DAMAGED.values(), ids=list(DAMAGED))
def test_damaged_results_get_one_line(content, reason, tmp_path):
    path = tmp_path / "run" / "results.json"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    write_result(tmp_path / "whole", 50.0)
    (found,), (note,) = collect(tmp_path)
    assert found.accuracy == 50.0 and "\n" not in note
    assert note.startswith(f"{path.parent}: results.json is") and reason in note and "remove the file" in note
    with pytest.raises(ValueError, match="run/results.json is") as caught:
        read_results_file(path, ALL_KEYS)
    assert reason in str(caught.value)
