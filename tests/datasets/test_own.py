"""Your own images: folders, CSV files and split files, through the registry and the command line's config."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from dassl.data.datasets import DATASET_REGISTRY

import train
from datasets import __main__ as command
from datasets.keys import KEYS
from datasets.own import OWN_DATASETS
from tests.reference.layouts import class_folders, put, text

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"
YAML = {"Folder": "folder", "Csv": "csv", "SplitJson": "split_json"}
ANIMALS = ["cat", "dog", "house sparrow"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def make(name, root, *pairs, seed=1):
    words = ["--root", str(root), "--seed", str(seed), "--dataset-config-file", str(CONFIGS / f"{YAML[name]}.yaml")]
    cfg = train.setup_cfg(train.parse_args([*words, *map(str, pairs)]))
    random.seed(seed)
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)


def sizes(made):
    return len(made.train_x), len(made.val or []), len(made.test)


def paths(made):
    parts = (made.train_x, made.val or [], made.test)
    return [[Path(os.path.relpath(d.impath, made.image_dir)).as_posix() for d in part] for part in parts]


def test_the_command_line_knows_every_key_with_our_default():
    cfg = train.setup_cfg(train.parse_args([]))
    assert {key: cfg.DATASET[key] for key in KEYS} == KEYS
    assert set(OWN_DATASETS) == set(YAML)


def test_one_folder_is_divided_by_ratios_whatever_the_runs_seed(tmp_path):
    class_folders(tmp_path, ANIMALS)
    put(tmp_path, ["cat/more/deep.PNG", "dog/more/deep.webp", "house sparrow/more/deep.jpeg"])
    text(tmp_path / "cat" / "notes.txt", ["no image"])
    made = make("Folder", tmp_path)
    assert made.classnames == ANIMALS and sizes(made) == (18, 6, 9)  # 11 a class: round(5.5) = 6, 2, 3
    assert paths(make("Folder", tmp_path, seed=2)) == paths(made)
    other = make("Folder", tmp_path, "DATASET.SPLIT_SEED", 2)
    assert sizes(other) == sizes(made) and paths(other) != paths(made)
    everything = [path for part in paths(made) for path in part]
    assert len(set(everything)) == 33 and "cat/more/deep.PNG" in everything


def test_the_division_is_each_class_shuffled_and_cut(tmp_path):
    class_folders(tmp_path, ANIMALS)
    made = make("Folder", tmp_path, "DATASET.RATIOS", "(0.6, 0.1, 0.3)", "DATASET.SPLIT_SEED", 7)
    stream, expected = random.Random(7), ([], [], [])
    for name in ANIMALS:
        images = [f"{name}/image_{i:04d}.jpg" for i in range(10)]
        stream.shuffle(images)
        for part, piece in zip(expected, (images[:6], images[6:7], images[7:])):
            part.extend(piece)
    assert paths(made) == list(expected)


def test_val_is_optional(tmp_path):
    class_folders(tmp_path, ANIMALS)
    made = make("Folder", tmp_path, "DATASET.RATIOS", "(0.8, 0, 0.2)")
    assert made.val is None and sizes(made) == (24, 0, 6)


@pytest.mark.parametrize("val", ["val", "valid", "validation", None])
def test_divided_folders(tmp_path, val):
    for part, count in (("train", 4), (val, 2), ("test", 3)):
        if part:
            class_folders(tmp_path / part, ANIMALS, count)
    made = make("Folder", tmp_path)
    assert made.classnames == ANIMALS and sizes(made) == (12, 6 if val else 0, 9)
    assert paths(made)[2][0] == "test/cat/image_0000.jpg"
    assert {d.label for d in made.test if d.classname == "dog"} == {1}


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path, ["bus", "train"])
    assert make("Folder", tmp_path).classnames == ["bus", "train"]


def test_files_side_by_side_have_draws_of_their_own(tmp_path):
    put(tmp_path, [f"{name}_{i}.jpg" for name in ANIMALS for i in range(8)])
    for file, images in (("few.csv", 6), ("many.csv", 8)):
        text(tmp_path / file, [f"{name}_{i}.jpg,{name}" for name in ANIMALS for i in range(images)])
    for file, count in (("few.csv", 3), ("many.csv", 4), ("few.csv", 3)):
        assert sizes(make("Csv", tmp_path / file))[0] == 3 * count
        made = make("Csv", tmp_path / file, "DATASET.NUM_SHOTS", 2)
        assert sizes(made)[0] == 6
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("shot_*"))
    assert kept == [f"split_fewshot/{stem}/shot_2-seed_1.json" for stem in ("few", "many")]


def test_few_shots_and_halves_and_a_second_look(tmp_path):
    class_folders(tmp_path, ANIMALS)
    base, new = (
        make("Folder", tmp_path, "DATASET.NUM_SHOTS", 2, "DATASET.SUBSAMPLE_CLASSES", s) for s in ("base", "new")
    )
    assert base.classnames == ANIMALS[:2] and new.classnames == ANIMALS[2:]
    assert Counter(d.label for d in base.train_x) == {0: 2, 1: 2}
    assert (tmp_path / "split_fewshot" / "shot_2-seed_1.json").is_file()
    assert make("Folder", tmp_path).classnames == ANIMALS  # split_fewshot is no class


@pytest.mark.parametrize("titles", [True, False])
@pytest.mark.parametrize("as_folder", [True, False])
def test_csv_with_splits(tmp_path, titles, as_folder):
    put(tmp_path, [f"{part}{i}.jpg" for part in "abc" for i in range(4)])
    lines = [
        f"{p}{i}.jpg,{ANIMALS[i % 2]},{s}" for p, s in (("a", "train"), ("b", "Test"), ("c", "val")) for i in range(4)
    ]
    (tmp_path / "own.csv").write_text("\n".join((["Path,ClassName,Split"] if titles else []) + lines), "utf-8-sig")
    made = make("Csv", tmp_path if as_folder else tmp_path / "own.csv")
    assert made.classnames == ["cat", "dog"]
    assert paths(made) == [[f"{p}{i}.jpg" for i in range(4)] for p in "acb"]


def test_csv_without_splits_is_divided_and_its_order_does_not_matter(tmp_path):
    class_folders(tmp_path / "images", ANIMALS)
    lines = [f"{name}/image_{i:04d}.jpg,{name.upper()}" for name in ANIMALS for i in range(10)]
    text(tmp_path / "lists" / "own.csv", lines)
    first = make("Csv", tmp_path / "lists", "DATASET.IMAGES", tmp_path / "images")
    assert first.classnames == [name.upper() for name in ANIMALS] and sizes(first) == (15, 6, 9)
    text(tmp_path / "lists" / "own.csv", [f"{tmp_path}/images/{line}" for line in reversed(lines)])
    assert paths(make("Csv", tmp_path / "lists", "DATASET.IMAGES", "../images")) == paths(first)


def test_split_json(tmp_path):
    put(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    split = {"train": [["a.jpg", 0, "cat"], ["b.jpg", 1, "dog"]], "test": [["c.jpg", 1, "dog"]]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for root in (tmp_path, tmp_path / "split.json"):
        made = make("SplitJson", root, "DATASET.IMAGES", "images")
        assert made.classnames == ["cat", "dog"] and sizes(made) == (2, 0, 1)


@pytest.mark.parametrize(
    ("file", "content", "names"),
    [
        ("n.txt", "a cat\na dog\na sparrow\n", ["a cat", "a dog", "a sparrow"]),
        ("n.json", '["a cat", "a dog", "a sparrow"]', ["a cat", "a dog", "a sparrow"]),
        ("n.json", '{"dog": "hound"}', ["cat", "hound", "house sparrow"]),
        ("n.txt", "house sparrow\ncat\n\ndog\n", ["house sparrow", "cat", "dog"]),  # the old names: a new order
    ],
)
def test_class_names_from_a_file(tmp_path, file, content, names):
    class_folders(tmp_path / "data", ANIMALS)
    (tmp_path / "data" / file).write_text(content)
    (tmp_path / file).write_text(content)
    for given in (file, tmp_path / file):
        made = make("Folder", tmp_path / "data", "DATASET.CLASSNAMES", given, "DATASET.TEMPLATE", "a drawing of a {}.")
        assert made.classnames == names
        folders = {made.classnames[d.label]: Path(d.impath).parent.name for d in made.test}
        old = {"a cat": "cat", "a dog": "dog", "hound": "dog", "a sparrow": "house sparrow"}
        assert folders == {name: old.get(name, name) for name in names}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("n.txt", "a\nb\n", "has 2 names, but there are 3 classes"),
        ("n.txt", "a\nb\nb\n", "names two classes 'b'"),
        ("n.json", '{"dgo": "hound"}', "names 'dgo', which is no class. Did you mean 'dog'?"),
        ("n.json", "[1, 2, 3]", "holds 1; class names should be text"),
        ("n.json", "3", "holds a int"),
    ],
)
def test_bad_class_names_are_named(tmp_path, file, content, words):
    class_folders(tmp_path / "data", ANIMALS)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=words):
        make("Folder", tmp_path / "data", "DATASET.CLASSNAMES", tmp_path / file)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["DATASET.RATIOS", "(0.5, 0.5)"], "should be three numbers"),
        (["DATASET.RATIOS", "(0.5, 0.2, 0.5)"], "add up to 1"),
        (["DATASET.RATIOS", "(1.0, 0, 0)"], "add up to 1"),
        (
            ["DATASET.RATIOS", "(0.96, 0.02, 0.02)"],
            r"class 'cat' has 10 images, too few for ratios 0.96/0.02/0.02 \(10",
        ),
        (["DATASET.TEMPLATE", "a photo"], "needs {} where the class name goes"),
        (["DATASET.CLASSNAMES", "nowhere.txt"], "neither .*nowhere.txt nor .*nowhere.txt"),
    ],
)
def test_bad_keys_are_named(tmp_path, pairs, words):
    class_folders(tmp_path, ANIMALS)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        make("Folder", tmp_path, *pairs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "has no class folders"),
        (["x.jpg"], "has no class folders"),
        (["cat/x.txt"], "cat holds no image"),
        (["train/cat/x.jpg"], "holds train; it should hold train, test"),
        (["train/cat/x.jpg", "val/cat/x.jpg"], "holds train, val; it should hold train, test"),
        (["train/cat/x.jpg", "test/cta/x.jpg"], "class 'cta' of .*test is not in train. Did you mean 'cat'?"),
        (["train/cat/x.jpg", "test/cat/x.jpg", "extra/x.jpg"], "also 'extra'"),
    ],
)
def test_bad_folders_are_named(tmp_path, files, words):
    (tmp_path / "data").mkdir()
    put(tmp_path / "data", files)
    with pytest.raises(ValueError, match=words):
        make("Folder", tmp_path / "data")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,classname"], "has no rows"),
        (["a.jpg"], r"line 1: found \['a.jpg'\]"),
        (["a.jpg,cat,train", "b.jpg,cat"], "line 2: found"),
        (["a.jpg,cat,tset"], "split 'tset'; allowed: train, val, test. Did you mean 'test'?"),
        (["a.jpg,,train"], "line 1: found"),
        (["a.jpg,cat,train", "b.jpg,cat,train"], "has no image for test"),
        (["a.jpg,cat,train", "x.jpg,cat,test"], r"no such image: .*x\.jpg"),
        (["../a.jpg,cat,train", "b.jpg,cat,test"], "leaves the folder"),
        (["/etc/a.jpg,cat,train", "b.jpg,cat,test"], "leaves the folder"),
    ],
)
def test_bad_csv_files_are_named(tmp_path, lines, words):
    put(tmp_path, ["a.jpg", "b.jpg"])
    text(tmp_path / "own.csv", lines)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make("Csv", tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("train 0 ant, train 1 cat, test 2 cow", r"class 'cow' \(label 2\) is in test, but not in train"),
        ("train 0 ant, train 1 cat, val 2 cart, test 0 ant", r"'cart' \(label 2\) is in val.* Did you mean 'cat'\?"),
        ("train 0 ant, train 1 cat, test 2 cat", r"'cat' \(label 2\) is in test, but not in train; 'cat' is label 1"),
        ("train 0 ant, train 2 cat, test 2 cat", r"2 classes and no label 1, but a label 2 \('cat'\); .* 0 to 1"),
        ("train 1 ant, test 1 ant", r"1 classes and no label 0, but a label 1 \('ant'\); labels should be 0 to 0"),
        ("train 0 ant, train 1 cat, test 1 dog", "label 1 is 'cat' in train and 'dog' in test; each label"),
        ("train 0 ant, train 1 cat, test 1 ant", "label 1 is 'cat' in train and 'ant' in test; .*; 'ant' is label 0"),
        ("train 0 ant, train 0 bee, test 0 ant", "label 0 is 'ant' in train and 'bee' in train"),
        ("train 0 ant, train 1 ant, test 1 ant", "'ant' has the labels 0 and 1; each name should have one label"),
    ],
)
def test_classes_that_do_not_fit_together_are_named(tmp_path, capsys, rows, words):
    put(tmp_path, ["a.jpg"])
    split = {"train": [], "val": [], "test": []}
    for part, label, name in (row.split() for row in rows.split(", ")):
        split[part].append(["a.jpg", int(label), name])
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match=words) as caught:
        make("SplitJson", tmp_path)
    assert "\n" not in str(caught.value)
    assert command.main(["check", "SplitJson", "--root", str(tmp_path)]) == 1
    assert f"problem: {caught.value}\n" in capsys.readouterr().out


def test_a_class_that_is_only_in_the_test_of_a_csv_file_is_named(tmp_path):
    put(tmp_path, ["a.jpg"])
    text(tmp_path / "own.csv", ["a.jpg,ant,train", "a.jpg,dog,train", "a.jpg,cat,test", "a.jpg,dog,test"])
    with pytest.raises(ValueError, match=r"class 'cat' \(label 1\) is in test, but not in train"):
        make("Csv", tmp_path)


def test_a_file_in_another_encoding_is_named(tmp_path):
    put(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "own.csv").write_bytes("a.jpg,Käse,train\nb.jpg,Käse,test\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"CSV file .*own\.csv is not UTF-8 text"):
        make("Csv", tmp_path)
    (tmp_path / "own.csv").write_text("a.jpg,Käse,train\nb.jpg,Käse,test\n", "utf-8")
    assert make("Csv", tmp_path).classnames == ["Käse"]


def test_a_wrong_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        make("Csv", tmp_path / "nowhere.csv")
    with pytest.raises(FileNotFoundError, match=r"should hold one file \*\.csv, but holds none"):
        make("Csv", tmp_path)
    text(tmp_path / "a.csv", ["x"])
    text(tmp_path / "b.csv", ["x"])
    with pytest.raises(FileNotFoundError, match="but holds a.csv, b.csv"):
        make("Csv", tmp_path)
    with pytest.raises(NotADirectoryError, match="Folder reads a folder"):
        make("Folder", tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="DATASET.IMAGES is 'pictures'"):
        make("Csv", tmp_path / "a.csv", "DATASET.IMAGES", "pictures")
    with pytest.raises(ValueError, match="DATASET.ROOT is empty"):
        make("Csv", "")
