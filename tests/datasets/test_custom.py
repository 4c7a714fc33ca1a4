"""Custom data: folders, CSV files and split files, through the registry."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from datasets import __main__ as command
from tests.reference.layouts import class_folders, put, text

ANIMALS = ["cat", "dog", "house sparrow"]


def sizes(made):
    return len(made.train_x), len(made.val or []), len(made.test)


def paths(made):
    parts = (made.train_x, made.val or [], made.test)
    return [[Path(os.path.relpath(d.impath, made.image_dir)).as_posix() for d in part] for part in parts]


def test_the_split_is_each_class_shuffled_and_cut_whatever_the_runs_seed(tmp_path, make):
    class_folders(tmp_path, ANIMALS)
    put(tmp_path, ["cat/more/deep.PNG", "dog/more/deep.webp", "house sparrow/more/deep.jpeg"])
    text(tmp_path / "cat" / "notes.txt", ["no image"])
    made = make("Folder", tmp_path, RATIOS=(0.6, 0.1, 0.3), SPLIT_SEED=7)
    stream, expected = random.Random(7), ([], [], [])
    for name, deep in zip(ANIMALS, ("PNG", "webp", "jpeg")):
        images = [f"{name}/image_{i:04d}.jpg" for i in range(10)] + [f"{name}/more/deep.{deep}"]
        stream.shuffle(images)
        for part, piece in zip(expected, (images[:7], images[7:8], images[8:])):  # of 11: round(6.6), round(1.1)
            part.extend(piece)
    assert made.classnames == ANIMALS and paths(made) == list(expected)
    assert paths(make("Folder", tmp_path, seed=2, RATIOS=(0.6, 0.1, 0.3), SPLIT_SEED=7)) == list(expected)
    assert paths(make("Folder", tmp_path, RATIOS=(0.6, 0.1, 0.3))) != list(expected)
    made = make("Folder", tmp_path, RATIOS=(0.8, 0, 0.2))
    assert made.val is None and sizes(made) == (27, 0, 6)


@pytest.mark.parametrize("val", ["val", "valid", "validation", None])
def test_folders_with_a_split(tmp_path, make, val):
    for part, count in (("train", 4), (val, 2), ("test", 3)):
        if part:
            class_folders(tmp_path / part, ANIMALS, count)
    made = make("Folder", tmp_path)
    assert made.classnames == ANIMALS and sizes(made) == (12, 6 if val else 0, 9)
    assert paths(made)[2][0] == "test/cat/image_0000.jpg"
    assert {d.label for d in made.test if d.classname == "dog"} == {1}


def test_two_files_in_one_folder_have_separate_draws(tmp_path, make):
    put(tmp_path, [f"{name}_{i}.jpg" for name in ANIMALS for i in range(8)])
    for file, images in (("few.csv", 6), ("many.csv", 8)):
        text(tmp_path / file, [f"{name}_{i}.jpg,{name}" for name in ANIMALS for i in range(images)])
    for file, count in (("few.csv", 3), ("many.csv", 4), ("few.csv", 3)):
        assert sizes(make("Csv", tmp_path / file))[0] == 3 * count
        assert sizes(make("Csv", tmp_path / file, NUM_SHOTS=2))[0] == 6
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("shot_*"))
    assert kept == [f"split_fewshot/{stem}/shot_2-seed_1.json" for stem in ("few", "many")]


def test_few_shots_and_halves_and_a_second_reading(tmp_path, make):
    classes = ["bus", "ship", "train"]  # a class may be called train
    class_folders(tmp_path, classes)
    base, new = (make("Folder", tmp_path, NUM_SHOTS=2, SUBSAMPLE_CLASSES=part) for part in ("base", "new"))
    assert base.classnames == classes[:2] and new.classnames == classes[2:]
    assert Counter(d.label for d in base.train_x) == {0: 2, 1: 2}
    assert (tmp_path / "split_fewshot" / "shot_2-seed_1.json").is_file()
    assert make("Folder", tmp_path).classnames == classes  # split_fewshot is no class


@pytest.mark.parametrize(("header", "file"), [(["Path,ClassName,Split"], ""), ([], "own.csv")])
def test_csv_with_splits(tmp_path, make, header, file):
    put(tmp_path, [f"{part}{i}.jpg" for part in "abc" for i in range(4)])
    parts = (("a", "train"), ("b", "Test"), ("c", "val"))
    lines = [f"{p}{i}.jpg,{ANIMALS[i % 2]},{s}" for p, s in parts for i in range(4)]
    (tmp_path / "own.csv").write_text("\n".join(header + lines), "utf-8-sig")
    made = make("Csv", tmp_path / file)
    assert made.classnames == ["cat", "dog"]
    assert paths(made) == [[f"{p}{i}.jpg" for i in range(4)] for p in "acb"]


def test_csv_without_splits_does_not_depend_on_the_order_of_lines(tmp_path, make):
    class_folders(tmp_path / "images", ANIMALS)
    lines = [f"{name}/image_{i:04d}.jpg,{name.upper()}" for name in ANIMALS for i in range(10)]
    text(tmp_path / "lists" / "own.csv", lines)
    first = make("Csv", tmp_path / "lists", IMAGES=str(tmp_path / "images"))
    assert first.classnames == [name.upper() for name in ANIMALS] and sizes(first) == (15, 6, 9)
    lines = [f"{tmp_path}/images/{line}" for line in reversed(lines)]
    text(tmp_path / "lists" / "own.csv", ["filename,label", *lines])
    assert paths(make("Csv", tmp_path / "lists", IMAGES="../images")) == paths(first)


@pytest.mark.parametrize("slash", ["/", "\\"])  # of Windows
def test_split_json(tmp_path, make, slash):
    put(tmp_path / "images", ["x/a.jpg", "x/b.jpg", "x/c.jpg"])
    split = {"train": [[f"x{slash}a.jpg", 0, "cat"], ["x/b.jpg", 1, "dog"]], "test": [[f"x{slash}c.jpg", 1, "dog"]]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for root in (tmp_path, tmp_path / "split.json"):
        made = make("SplitJson", root, IMAGES="images")
        assert made.classnames == ["cat", "dog"] and paths(made) == [["x/a.jpg", "x/b.jpg"], [], ["x/c.jpg"]]


@pytest.mark.parametrize(
    ("file", "content", "names"),
    [
        ("n.txt", "a cat\na dog\na sparrow\n", ["a cat", "a dog", "a sparrow"]),
        ("n.json", '["a cat", "a dog", "a sparrow"]', ["a cat", "a dog", "a sparrow"]),
        ("n.json", '{"dog": "hound"}', ["cat", "hound", "house sparrow"]),
        ("n.txt", "house sparrow\ncat\n\ndog\n", ["house sparrow", "cat", "dog"]),  # the old names: a new order
    ],
)
def test_class_names_from_a_file(tmp_path, make, file, content, names):
    class_folders(tmp_path / "data", ANIMALS)
    (tmp_path / "data" / file).write_text(content)
    (tmp_path / file).write_text(content)
    for given in (file, str(tmp_path / file)):
        made = make("Folder", tmp_path / "data", CLASSNAMES=given, TEMPLATE="a drawing of a {}.")
        assert made.classnames == names
        folders = {made.classnames[d.label]: Path(d.impath).parent.name for d in made.test}
        old = {"a cat": "cat", "a dog": "dog", "hound": "dog", "a sparrow": "house sparrow"}
        assert folders == {name: old.get(name, name) for name in names}


FOLDERS = [f"{name}/{i}.jpg" for name in ANIMALS for i in range(10)]
NAMES = {"CLASSNAMES": "names.json"}


@pytest.mark.parametrize(
    ("images", "names", "keys", "words"),
    [
        ([], "", {}, "holds no class folders"),
        (["x.jpg"], "", {}, "holds 1 images that are not in class folders"),
        (["cat/x.txt"], "", {}, "cat holds no image"),
        (["train/cat/x.jpg", "val/cat/x.jpg"], "", {}, "holds train, val; it should hold train, test"),
        (["train/cat/x.jpg", "test/cta/x.jpg"], "", {}, "class 'cta' of .*test is not in train; did you mean 'cat'?"),
        (["train/cat/x.jpg", "test/cat/x.jpg", "extra/x.jpg"], "", {}, "also 'extra'"),
        (FOLDERS, "", {"RATIOS": (0.5, 0.5)}, "should be three numbers"),
        (FOLDERS, "", {"RATIOS": (1.0, 0, 0)}, "add up to 1"),
        (FOLDERS, "", {"RATIOS": (float("nan"), 0.2, 0.3)}, "add up to 1"),
        (FOLDERS, "", {"RATIOS": (0.96, 0.02, 0.02)}, r"'cat' has 10 images, too few for ratios 0.96/0.02/0.02 \(10"),
        (FOLDERS, "", {"CLASSNAMES": "nowhere.txt"}, "neither .*nowhere.txt nor .*nowhere.txt"),
        (FOLDERS, '["a", "b"]', NAMES, "has 2 names, but there are 3 classes"),
        (FOLDERS, '["a", "b", "b"]', NAMES, "gives two classes the name 'b'"),
        (FOLDERS, '{"dgo": "hound"}', NAMES, "names 'dgo', which is no class; did you mean 'dog'?"),
        (FOLDERS, "[1, 2, 3]", NAMES, "holds 1; class names should be text"),
        (FOLDERS, "3", NAMES, "holds a int; it should be an object or a list"),
    ],
)
def test_bad_folders_keys_and_class_names_are_named(tmp_path, make, images, names, keys, words):
    put(tmp_path, images)
    (tmp_path / "names.json").write_text(names)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        make("Folder", tmp_path, **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("train 0 ant, train 1 cat, test 2 cow", r"class 'cow' \(label 2\) is in test, but not in train"),
        ("train 0 ant, train 1 cat, val 2 cart, test 0 ant", r"'cart' \(label 2\) is in val.* did you mean 'cat'\?"),
        ("train 0 ant, train 1 cat, test 2 cat", r"'cat' \(label 2\) is in test, but not in train; 'cat' is label 1"),
        ("train 0 ant, train 2 cat, test 2 cat", r"2 classes and no label 1, but a label 2 \('cat'\); .* 0 to 1"),
        ("train 0 ant, train 1 cat, test 1 dog", "label 1 is 'cat' in train and 'dog' in test; each label"),
        ("train 0 ant, train 1 cat, test 1 ant", "label 1 is 'cat' in train and 'ant' in test; .*; 'ant' is label 0"),
        ("train 0 ant, train 0 bee, test 0 ant", "label 0 is 'ant' in train and 'bee' in train"),
        ("train 0 ant, train 1 ant, test 1 ant", "'ant' has the labels 0 and 1; each name should have one label"),
    ],
)
def test_classes_that_do_not_fit_together_are_named(tmp_path, make, capsys, rows, words):
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


@pytest.mark.parametrize(
    ("name", "root", "keys", "words"),
    [
        ("Csv", "nowhere.csv", {}, "there is no file or folder"),
        ("Csv", "empty", {}, r"should hold one file \*\.csv, but holds none"),
        ("Csv", "", {}, "but holds a.csv, b.csv"),
        ("Csv", "a.csv", {"IMAGES": "pictures"}, "DATASET.IMAGES is 'pictures'"),
        ("Folder", "a.csv", {}, "Folder reads a folder"),
    ],
)
def test_a_wrong_root_is_named(tmp_path, make, name, root, keys, words):
    (tmp_path / "empty").mkdir()
    text(tmp_path / "a.csv", ["x"])
    text(tmp_path / "b.csv", ["x"])
    with pytest.raises((OSError, ValueError), match=words):
        make(name, tmp_path / root, **keys)
