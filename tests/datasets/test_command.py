"""python -m datasets check, layout and stats."""

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train
from datasets.__main__ import main
from datasets.catalog import CATALOG
from datasets.registry import Counts
from tests.reference.clip_states import vit_state
from tests.reference.doc_commands import commands
from tests.reference.layouts import LAYOUTS, class_folders, put, text

PROJECT = Path(__file__).resolve().parents[2]


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_complete_copy_passes_unchanged_and_has_the_printed_layout(name, tmp_path, capsys, monkeypatch):
    classnames = LAYOUTS[name][0](tmp_path)
    made, about = CATALOG[name], CATALOG[name].description
    counts = Counts(len(classnames), *LAYOUTS[name][1])
    monkeypatch.setattr(made, "description", replace(about, counts=counts))
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = run(capsys, "check", name, "--root", tmp_path, "--images", -1)
    assert code == 0 and "no problem found" in out, out
    assert f"images opened {sum(LAYOUTS[name][1])} {sum(LAYOUTS[name][1])}" in " ".join(out.split())
    assert sorted(tmp_path.rglob("*")) == before
    code, out, _ = run(capsys, "layout", name)
    assert code == 0 and f"ROOT/{about.folder}/" in out and about.split in out
    for pattern in (line.split()[0] for line in out.splitlines() if line.startswith("  ")):
        found = list((tmp_path / about.folder).glob(pattern.rpartition(".")[0] + ".*"))
        assert found or pattern == about.split, pattern


def problems(capsys, name, root):
    code, out, _ = run(capsys, "check", name, "--root", root, "--any-size")
    found = [line[len("problem: ") :] for line in out.splitlines() if line.startswith("problem: ")]
    assert code == (1 if found else 0)
    return found


MISTAKES = [(name, *mistake) for name in LAYOUTS for mistake in CATALOG[name].description.mistakes]


@pytest.mark.parametrize(("name", "path", "right", "advice"), MISTAKES, ids=lambda value: value)
def test_a_mistake_is_one_only_where_the_right_place_is_empty(name, path, right, advice, tmp_path, capsys):
    LAYOUTS[name][0](tmp_path)
    folder = tmp_path / CATALOG[name].description.folder
    for split in folder.glob("split_*.json"):  # with it, no annotation would be asked for
        split.unlink()
    if path.endswith(".gz"):
        (folder / path).write_text("an archive that was kept")
    else:
        (folder / path).mkdir()
    assert not [line for line in problems(capsys, name, tmp_path) if "is misplaced" in line]
    place = folder / right
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    if path.startswith(f"{right}/"):
        (folder / path).mkdir(parents=True)
        (place / ".DS_Store").write_text("")
    assert f"{folder / path} is misplaced: {advice}" in problems(capsys, name, tmp_path)


def test_annotations_are_not_asked_for_beside_the_split_file(tmp_path, capsys):
    folder = tmp_path / "sun397"
    put(folder / "SUN397", ["a.jpg", "b.jpg"])
    (folder / "Partitions").mkdir()
    text(folder / "split_zhou_SUN397.json", ['{"train": [["a.jpg", 0, "x"]], "test": [["b.jpg", 0, "x"]]}'])
    assert problems(capsys, "SUN397", tmp_path) == []


def test_missing_things_are_named(tmp_path, capsys):
    (tmp_path / "caltech101").mkdir()
    near = f"no folder {tmp_path / 'caltech-101'}; did you mean 'caltech101'?"
    assert problems(capsys, "Caltech101", tmp_path) == [near]
    (tmp_path / "imagenet").mkdir()  # another set's folder is no misspelling
    assert problems(capsys, "ImageNetV2", tmp_path) == [f"no folder {tmp_path / 'imagenetv2'}"]
    LAYOUTS["OxfordPets"][0](tmp_path)
    folder = tmp_path / "oxford_pets"
    for path in list((folder / "images").glob("Aby*"))[:12]:
        path.unlink()
    (found,) = problems(capsys, "OxfordPets", tmp_path)
    assert found.startswith("12 of 45 images are missing: ") and found.endswith(" and 9 more")
    os.remove(folder / "annotations" / "test.txt")
    instead = "and no split_zhou_OxfordPets.json instead of it"
    missing = f"annotation file not found: {folder / 'annotations' / 'test.txt'}, {instead}"
    shutil.rmtree(folder / "images")
    assert problems(capsys, "OxfordPets", tmp_path) == [f"no folder {folder / 'images'}", missing]
    LAYOUTS["ImageNet"][0](tmp_path)
    shutil.rmtree(tmp_path / "imagenet" / "images" / "val")
    put(tmp_path / "imagenet" / "images" / "val", ["ILSVRC2012_val_00000001.JPEG"])
    os.remove(tmp_path / "imagenet" / "classnames.txt")
    missing, flat = problems(capsys, "ImageNet", tmp_path)
    assert "classnames.txt" in missing and "val is flat" in flat


def test_unreadable_images_and_leaks_are_named(tmp_path, capsys):
    put(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "b.jpg").write_bytes(b"GIF89a, but not really")
    text(tmp_path / "own.csv", ["a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,cat,test", "a.jpg,cat,test"])
    assert problems(capsys, "Csv", tmp_path) == [
        "1 of 2 images of the test are also for training or validation: a.jpg",
        f"1 of 4 images that were opened cannot be read: {tmp_path / 'b.jpg'}",
    ]


def test_all_is_the_fifteen_and_a_part_is_told_from_the_whole(tmp_path, capsys):
    LAYOUTS["EuroSAT"][0](tmp_path)
    code, out, _ = run(capsys, "check", "EuroSAT", "--root", tmp_path, "--images", 7)
    assert code == 1 and "images opened 7" in " ".join(out.split())
    assert "problem: test: 30 found, 8,100 expected" in out and "problem: classes" not in out
    code, out, _ = run(capsys, "check", "all", "--root", tmp_path, "--any-size")
    last = [line.split()[:2] for line in out.splitlines()[-15:]]
    assert code == 1 and last == [[name, "0" if name == "EuroSAT" else "1"] for name in CATALOG]


def test_custom_data_is_checked(tmp_path, capsys):
    class_folders(tmp_path, ["cat", "dog"], 3)
    assert "class 'cat' has 3 images" in problems(capsys, "Folder", tmp_path)[0]
    code, out, _ = run(capsys, "check", "Folder", "--root", tmp_path, "DATASET.RATIOS", "(0.4, 0.3, 0.3)")
    assert code == 0 and "no problem found" in out
    assert "ROOT/{train,val,test}/<class>/" in run(capsys, "layout", "folder")[1]
    class_folders(tmp_path / "one", ["cat"])
    assert "'cat' is the only class" in problems(capsys, "Folder", tmp_path / "one")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check OxfordPet --root .", "did you mean 'OxfordPets'?"),
        ("stats Folder --root . DATASET.RATIO 1", "DATASET.RATIOS"),
        ("check all --root nowhere", "there is no folder"),
        ("check EuroSAT --root . DATASET.RATIOS (0.6,0.1,0.3)", "but EuroSAT does not read it; leave it at"),
        ("stats EuroSAT --root . DATASET.SPLIT_SEED 2", "DATASET.SPLIT_SEED is 2, but EuroSAT does not read it"),
    ],
)
def test_wrong_words_are_named(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words.split())
    assert code == 1 and message in err and err.count("\n") == 1
    with pytest.raises(SystemExit):
        run(capsys, *words.split(), "--imagse", "3")


def test_stats(tmp_path, capsys):
    LAYOUTS["FGVCAircraft"][0](tmp_path)
    code, out, _ = run(capsys, "stats", "FGVCAircraft", "--root", tmp_path)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and ["train", "16", "4", "4", "4", "4"] in lines and ["test", "20", "4", "5", "5", "5"] in lines
    assert ["2", "Falcon", "2000", "4", "3", "5"] in lines
    words = "--shots", 2, "DATASET.SUBSAMPLE_CLASSES", "new"
    _, out, _ = run(capsys, "stats", "FGVCAircraft", "--root", tmp_path, *words)
    lines = [line.split() for line in out.splitlines()]
    assert ["1", "F-16A/B", "2", "2", "5"] in lines and ["val", "4", "2", "2", "2", "2"] in lines
    assert run(capsys, "stats", "FGVCAircraft", "--root", tmp_path, "DATASET.NUM_SHOTS", 2, *words[2:])[1] == out
    assert not list(tmp_path.rglob("split_fewshot"))
    code, out, _ = run(capsys, "stats", "all", "--root", tmp_path)
    assert code == 1 and "FGVCAircraft\nsplit" in out and "EuroSAT\nproblem: data set EuroSAT: no folder" in out


@pytest.mark.parametrize("command", ["check", "stats"])
def test_a_drawn_split_is_never_taken_for_the_published_one(command, tmp_path, capsys, make):
    LAYOUTS["Food101"][0](tmp_path)
    words = ("Food101", "--root", tmp_path)
    assert "note: no split_zhou_Food101.json: train, val" in run(capsys, command, *words)[1]
    make("Food101", tmp_path, seed=7)
    path = tmp_path / "food-101" / "split_zhou_Food101.json"
    assert f"note: {path} was drawn here (seed 7), unlike the published" in run(capsys, command, *words)[1]
    split = json.loads(path.read_text())
    path.write_text(json.dumps({part: split[part] for part in ("train", "val", "test")}))  # as a file from elsewhere
    assert "note:" not in run(capsys, command, *words)[1]


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path, capfd, monkeypatch):
    """Each as it stands there, on small data; the training with a tiny CLIP and one epoch."""
    clip = tmp_path / "tiny.pt"
    torch.save(vit_state(patch=16, grid=2, vision_layers=3, text_layers=3), clip)
    LAYOUTS["DescribableTextures"][0](tmp_path / "DATA")
    class_folders(tmp_path / "photos", ["cat", "dog", "eel"])
    page = PROJECT / "docs" / "data.md"
    lines = commands(page) + [shlex.split(line) for line in re.findall(r"`(python -m [^`]*)`", page.read_text())]
    places = {"DATA": tmp_path / "DATA", "photos": tmp_path / "photos", "output/photos": tmp_path / "out"}
    small = f"MODEL.BACKBONE.NAME {clip} INPUT.SIZE (32,32) OPTIM.MAX_EPOCH 1 DATALOADER.NUM_WORKERS 0".split()
    ran = []
    for line in lines:
        words = [str(places.get(word, word)) for word in line]
        if words[:3] == ["python", "-m", "datasets"]:
            code = main([*words[3:], *(["--any-size"] if words[3] == "check" else [])])
        elif words[:2] == ["python", "train.py"]:
            monkeypatch.setattr(sys, "argv", [*words[1:], *small])
            code = train.main()
        else:
            continue
        out, err = capfd.readouterr()
        assert code == 0, (line, out, err)
        ran.append((words[3] if words[1] == "-m" else words[1], out))
    assert [name for name, _ in ran] == ["layout", "check", "stats", "train.py", "check"]
    said = ["ROOT/dtd/", "no problem found", "zigzagged", "* accuracy: ", "no problem found"]
    assert all(words in out for words, (_, out) in zip(said, ran))
    assert (tmp_path / "out" / "results.json").is_file()
