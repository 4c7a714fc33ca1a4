"""Results are found in every layout of the family, or the folder says why not."""

from __future__ import annotations

import os

import pytest

from scripts.collect import collect, read_log
from tests.reference.run_trees import LOG_05, LOG_06, LOG_TEST, write_log, write_result

# Folder, and (method, dataset, part, shots, seed) that it says: of CoOp, CoCoOp, MaPLe, PLOT, ALIGN and ours.
LAYOUTS = {
    "base2new/train_base/dtd/shots_16/CoCoOp/vit_b16_c4/seed2": ("CoCoOp", "dtd", "base", 16, 2),
    "base2new/test_new/dtd/shots_16/MaPLe/vit_b16_c2/seed3": ("MaPLe", "dtd", "new", 16, 3),
    "imagenet/MaPLe/vit_b16_c2_ep5_batch4_2ctx_cross_datasets_16shots/seed1": ("MaPLe", "imagenet", "all", 16, 1),
    "evaluation/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1_16shots/eurosat/seed1": ("CoCoOp", "eurosat", "target", 16, 1),
    "caltech101/CoOp/rn50_ep50_1shots/nctx16_cscFalse_ctpend/seed1": ("CoOp", "caltech101", "all", 1, 1),
    "OP_N4/dtd/PLOT/rn50_8shots/nctx16_cscFalse_ctpend/seed2": ("PLOT", "dtd", "all", 8, 2),
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
    assert (found.accuracy, found.exact) == ((93.25, True) if ours else (93.3, False))
    assert found.backbone == "ViT-B/16" and not notes


def test_results_in_a_folder_of_ones_own(tmp_path):
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
    for name, content in (("a", "{"), ("b", "{}"), ("c", '{"metrics": {"val": {"accuracy": 1}}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(content)
    found, notes = collect(tmp_path)
    assert not found and len(notes) == 5
    reasons = {note.split(": ")[0].rsplit("/", 1)[1]: note for note in notes}
    assert "does not say data set" in reasons["somewhere"]
    assert "log.txt: nothing was evaluated" in reasons["seed1"]
    assert "not one of ours" in reasons["a"] and "not one of ours" in reasons["b"]
    assert "not tested yet" in reasons["c"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        collect(tmp_path / "none")
