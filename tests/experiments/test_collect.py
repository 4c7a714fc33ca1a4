"""Results are found in every layout of the family, or the folder says why not."""

import json
import os

import pytest

from experiments.collect import collect, read_log
from tests.reference.run_trees import LOG_05, LOG_06, LOG_TEST, base2new_tree, write_log, write_result

# Folder, and (method, dataset, part, shots, seed, config) that it says: of CoOp, CoCoOp, MaPLe, PLOT, ALIGN and ours.
CTX = "nctx16_cscFalse_ctpend"
LAYOUTS = {
    "base2new/train_base/dtd/shots_16/CoCoOp/vit_b16_c4/seed2": ("CoCoOp", "dtd", "base", 16, 2, "vit_b16_c4"),
    "base2new/test_new/dtd/shots_16/MaPLe/vit_b16_c2/seed3": ("MaPLe", "dtd", "new", 16, 3, "vit_b16_c2"),
    "imagenet/MaPLe/vit_b16_cross_datasets_16shots/seed1": (
        "MaPLe", "imagenet", "all", 16, 1, "vit_b16_cross_datasets"
    ),
    "evaluation/CoCoOp/vit_b16_c4_16shots/eurosat/seed1": ("CoCoOp", "eurosat", "target", 16, 1, "vit_b16_c4"),
    f"caltech101/CoOp/rn50_ep50_1shots/{CTX}/seed1": ("CoOp", "caltech101", "all", 1, 1, f"rn50_ep50/{CTX}"),
    f"output/OP_N4/dtd/CoOp/RN50_8shots/{CTX}/seed2": ("PLOT", "dtd", "all", 8, 2, f"RN50/{CTX}"),  # PLOT's script
    f"output_joint/OP_N4/dtd/PLOTPP/vit_8shots/{CTX}/seed2": ("PLOTPP", "dtd", "all", 8, 2, f"vit/{CTX}"),
    f"evaluation/CoOp/rn50_16shots/{CTX}/imagenet_a/seed3": ("CoOp", "imagenet_a", "target", 16, 3, f"rn50/{CTX}"),
    "output/ZeroshotCLIP/vit_b16/dtd": ("ZeroshotCLIP", "dtd", "all", 0, 1, "vit_b16"),
    "fewshot/ucf101/MaPLe_2/shots_4/seed1": ("MaPLe_2", "ucf101", "all", 4, 1, ""),
    "xd/train/imagenet/shots_16/ALIGN/vit_b16/seed1": ("ALIGN", "imagenet", "source", 16, 1, "vit_b16"),
    "dg/test/imagenet_a/shots_16/ALIGN/vit_b16/seed1": ("ALIGN", "imagenet_a", "target", 16, 1, "vit_b16"),
    "fewshot/dtd/shots_2/UPT/vit_b16_ep100/seed1": ("UPT", "dtd", "all", 2, 1, "vit_b16_ep100"),
}  # fmt: skip


@pytest.mark.parametrize("folder, said", LAYOUTS.items(), ids=list(LAYOUTS))
def test_layouts(folder, said, tmp_path):
    write_log(tmp_path / "logs" / folder, 93.3, LOG_TEST)
    write_result(tmp_path / "ours" / folder, 93.25, method=said[0])
    found, notes = collect(tmp_path)
    assert [one.accuracy for one in found] == [93.3, 93.25] and not notes
    for one in found:
        assert (one.method, one.dataset, one.part, one.shots, one.seed, one.config) == said
        assert one.backbone == "ViT-B/16"


def test_a_base_half_that_was_tested_again_counts_once(tmp_path):
    tail = "shots_16/MaPLe/c"
    for part, form in (("train_base", LOG_06), ("test_base", LOG_TEST), ("test_new", LOG_TEST)):
        write_log(tmp_path / f"base2new/{part}/dtd/{tail}/seed1", {"train_base": 80.0}.get(part, 79.0), form)
    write_log(tmp_path / f"base2new/train_base/dtd/{tail}/seed2", 81.0, LOG_06)  # not tested again
    found = sorted((one.part, one.seed, one.accuracy) for one in collect(tmp_path)[0])
    assert found == [("base", 1, 79.0), ("base", 2, 81.0), ("new", 1, 79.0)]


def test_results_in_a_folder_of_any_name(tmp_path):
    more = {"dataset": "MiniSource", "classes": "new", "shots": 8, "seed": 5}
    write_result(tmp_path / "my" / "run", 50.5, **more)
    (found,), _ = collect(tmp_path)
    assert (found.dataset, found.part, found.shots, found.seed) == ("mini_source", "new", 8, 5)
    write_result(tmp_path / "my" / "run", 50.5, **more | {"dataset": "EuroSAT"})
    assert collect(tmp_path)[0][0].dataset == "eurosat"  # the stem of its YAML file, as in the protocols' folders


def test_an_evaluation_inside_a_run_counts_where_no_other_run_answers(tmp_path):
    base2new_tree(tmp_path, {("ALIGN", "dtd", 1): (80.0, 60.0)}, "c")
    run = tmp_path / "base2new/train_base/dtd/shots_16/ALIGN/c/seed1"
    for part, accuracy in (("base", 1.0), ("new", 2.0), ("all", 3.0)):
        more = {"dataset": "DescribableTextures", "classes": part, "shots": 16, "seed": 1}
        write_result(run / "eval" / f"dtd_{part}", accuracy, **more)
    found = sorted((one.part, one.accuracy) for one in collect(tmp_path)[0])
    assert found == [("all", 3.0), ("base", 80.0), ("new", 60.0)]


@pytest.mark.parametrize("end", ["Finish training", "Finished training", "Finish training\nFinished training"])
@pytest.mark.parametrize("form", [LOG_05, LOG_06])
def test_both_end_markers_and_both_forms(form, end):
    assert read_log(form.format(accuracy=93.3, end=end, backbone="RN50")) == 93.3


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
    for folder in ("ZeroshotCLIP/mini/seed1", "runs/CoOp/seed2", "dtd/CoOp/shots_x/seed3"):
        write_log(tmp_path / folder, 50.0, LOG_TEST)
    write_log(tmp_path / "evaluation/CoOp/vit_16shots/dtd/seed4", 50.0, "nothing\n")
    write_result(tmp_path / "c", 1.0, metrics={"val": {"accuracy": 1}})
    found, notes = collect(tmp_path)
    reasons = {note.split(": ")[0].rsplit("/", 1)[1]: note for note in notes}
    assert not found and len(notes) == 5
    assert all("does not give data set" in reasons[f"seed{i}"] for i in (1, 2, 3))
    assert "log.txt: nothing was evaluated" in reasons["seed4"] and "not tested yet" in reasons["c"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        collect(tmp_path / "none")


GOOD = {"method": "CoOp", "backbone": "x", "dataset": "Set", "classes": "all", "shots": 16, "seed": 1}
DAMAGED = {
    "cut short": ('{"method": "CoOp", "metrics": {"te', "is damaged (Unterminated string"),
    "no text": (b"\xff\xfe\x00", "is damaged ('utf-8' codec"),
    "a list": ("[]", "a list instead of keys"),
    "no metrics": (json.dumps(GOOD), "'metrics' is missing"),
    "a split of another kind": (json.dumps({**GOOD, "metrics": {"test": 3}}), "in the metrics of 'test'"),
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
