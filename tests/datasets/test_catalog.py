"""CoOp's fifteen sets, each read from a small folder in its real layout."""

import json
import os
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.catalog import CATALOG
from tests.reference.layouts import LAYOUTS, WNIDS, put, text

TEST_ONLY = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")


def rows(items, made):
    return [(Path(os.path.relpath(d.impath, made.image_dir)).as_posix(), d.label, d.classname) for d in items]


@pytest.mark.parametrize("name", LAYOUTS)
def test_classes_names_and_counts(name, tmp_path, make):
    maker, counts = LAYOUTS[name]
    classnames = maker(tmp_path)
    made = make(name, tmp_path)
    assert made.classnames == classnames and made.num_classes == len(classnames)
    parts = [] if name in TEST_ONLY else made.train_x, made.val or [], made.test
    assert tuple(map(len, parts)) == counts
    paths = [d.impath for part in parts for d in part]
    assert len(set(paths)) == len(paths) and all(os.path.isabs(path) for path in paths)
    assert all(classnames[d.label] == d.classname for part in parts for d in part)
    if name in TEST_ONLY:
        assert made.train_x == made.test and made.val is None
        few = make(name, tmp_path, NUM_SHOTS=1, SUBSAMPLE_CLASSES="new")
        assert rows(few.test, few) == rows(made.test, made) and not list(tmp_path.rglob("shot_*"))


def naive_draw(images, *shares):
    """CoOp's rule for each class: shuffle, then cut at rounded shares; the rest is the last part."""
    images = list(images)
    random.shuffle(images)
    cuts = [0]
    for share in shares:
        cuts.append(cuts[-1] + round(len(images) * share))
    return [images[a:b] for a, b in zip(cuts, [*cuts[1:], len(images)])]


@pytest.mark.parametrize("name", ["Caltech101", "Food101", "DescribableTextures", "EuroSAT"])
def test_class_folders_are_cut_with_coops_random_numbers(name, tmp_path, make):
    LAYOUTS[name][0](tmp_path)
    made = make(name, tmp_path, seed=5)
    random.seed(5)
    expected = ([], [], [])
    for folder in sorted(p for p in Path(made.image_dir).iterdir() if p.is_dir() and not p.name.startswith(".")):
        if folder.name not in ("BACKGROUND_Google", "Faces_easy"):
            images = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
            for part, piece in zip(expected, naive_draw(images, 0.5, 0.2)):
                part += [f"{folder.name}/{image}" for image in piece]
    assert [[row[0] for row in rows(part, made)] for part in (made.train_x, made.val, made.test)] == list(expected)


def test_pets_hold_out_val_with_coops_random_numbers(tmp_path, make):
    LAYOUTS["OxfordPets"][0](tmp_path)
    made = make("OxfordPets", tmp_path, seed=3)
    after = random.random()
    lines = (tmp_path / "oxford_pets" / "annotations" / "trainval.txt").read_text().splitlines()
    words = [line.split(" ") for line in lines]
    random.seed(3)
    parts = [naive_draw([image for image, y, *_ in words if int(y) == label], 0.2) for label in (1, 2, 3)]
    val, train = ([f"{image}.jpg" for part in parts for image in part[i]] for i in (0, 1))
    assert [[path for path, *_ in rows(part, made)] for part in (made.train_x, made.val)] == [train, val]
    assert random.random() == after  # no other random number is used


@pytest.mark.parametrize("name", [n for n in LAYOUTS if CATALOG[n].description.split])
def test_a_drawn_split_is_written_as_coop_writes_it_and_read_again(name, tmp_path, make):
    LAYOUTS[name][0](tmp_path)
    first = make(name, tmp_path, seed=1)
    about = CATALOG[name].description
    content = json.loads((tmp_path / about.folder / f"split_zhou_{name}.json").read_text())
    assert content.keys() == {"train", "val", "test", "drawn"} and content["drawn"] == {"seed": 1}
    assert first.split_drawn == {"seed": 1} and Path(first.split_path).name == f"split_zhou_{name}.json"
    assert [tuple(row) for row in content["train"]] == rows(first.train_x, first)
    second = make(name, tmp_path, seed=2)
    assert rows(second.train_x + second.test, second) == rows(first.train_x + first.test, first)


def test_two_simultaneous_runs_both_take_the_split_that_was_drawn_first(tmp_path, monkeypatch, make):
    LAYOUTS["Food101"][0](tmp_path)
    about = CATALOG["Food101"].description
    meanwhile = []

    def read(folder, images):
        split = about.read(folder, images)
        if not meanwhile:  # while seed 2 lists its images, a whole run of seed 1 starts and ends
            meanwhile.append(None)
            meanwhile.append(make("Food101", tmp_path, seed=1))
        return split

    monkeypatch.setattr(CATALOG["Food101"], "description", replace(about, read=read))
    second = make("Food101", tmp_path, seed=2)
    first, again = meanwhile[1], make("Food101", tmp_path, seed=3)
    assert rows(second.train_x, second) == rows(first.train_x, first) == rows(again.train_x, again)


def test_a_split_file_needs_no_annotations_and_its_classes_fit_together(tmp_path, make):
    folder = tmp_path / "stanford_cars"
    put(folder, ["a.jpg"])
    split = {"train": [["a.jpg", 0, "x"], ["a.jpg", 1, "x"]], "test": [["a.jpg", 1, "x"]]}
    path = folder / "split_zhou_StanfordCars.json"
    path.write_text(json.dumps(split))
    made = make("StanfordCars", tmp_path)
    assert made.classnames == ["x", "x"] and made.val is None and made.split_drawn is None
    path.write_text(json.dumps({**split, "test": [["a.jpg", 2, "y"]]}))
    with pytest.raises(ValueError, match=r"class 'y' \(label 2\) is in test, but not in train.*; `python -m datasets"):
        make("StanfordCars", tmp_path)


def test_folders_of_imagenet_that_are_refused(tmp_path, make):
    LAYOUTS["ImageNet"][0](tmp_path)
    val, late = tmp_path / "imagenet/images/val", tmp_path / "imagenet/images/train/n09999999"
    late.mkdir()
    with pytest.raises(ValueError, match="n09999999 holds no image"):
        make("ImageNet", tmp_path)
    late.rmdir()
    shutil.rmtree(val / "n01443537")
    with pytest.raises(ValueError, match="1 classes are in one of train and val only, as n01443537 in train"):
        make("ImageNet", tmp_path)
    shutil.rmtree(val)
    put(val, ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"])
    with pytest.raises(ValueError, match=r"val is flat: its 2 images .* move each to val/<wnid>/ .*devkit"):
        make("ImageNet", tmp_path)
    shutil.rmtree(val)
    put(val, [f"{wnid}/x.JPEG" for wnid in WNIDS])
    assert len(make("ImageNet", tmp_path).test) == 3


def test_classes_of_imagenet_may_share_a_name(tmp_path, make):
    for name in ("ImageNet", "ImageNetA"):
        LAYOUTS[name][0](tmp_path)
        path = tmp_path / CATALOG[name].description.folder / "classnames.txt"
        path.write_text("".join(f"{line.split()[0]} crane\n" for line in path.read_text().splitlines()))
        assert set(make(name, tmp_path).classnames) == {"crane"}


def test_splits_and_draws_go_to_one_cache_per_folder_where_the_data_is_read_only(tmp_path, home, monkeypatch, make):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for place in ("one", "two"):
        LAYOUTS["Food101"][0](tmp_path / place)
    renamed = tmp_path / "two" / "food-101" / "images" / "apple_pie_too"
    (renamed.parent / "apple_pie").rename(renamed)
    first, second = (make("Food101", tmp_path / place, NUM_SHOTS=1) for place in ("one", "two"))
    assert first.classnames != second.classnames and renamed.name in second.classnames
    (tmp_path / "link").symlink_to(tmp_path / "one")  # another name of the same folder
    linked = make("Food101", tmp_path / "link", seed=2)
    assert rows(linked.test, linked) == rows(first.test, first)
    caches = sorted((home / ".cache" / "align").iterdir())
    assert len(caches) == 2 and all(place.name.startswith("food-101-") for place in caches)
    kept = sorted(path.relative_to(caches[0]).as_posix() for path in caches[0].rglob("*.json"))
    assert kept == ["split_fewshot/shot_1-seed_1.json", "split_zhou_Food101.json"]
    assert [path.name for path in (tmp_path / "one" / "food-101").iterdir()] == ["images"]
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "elsewhere"))
    make("Food101", tmp_path / "one", NUM_SHOTS=1)
    assert [path.name for path in (tmp_path / "elsewhere").rglob("shot_*")] == ["shot_1-seed_1.json"]


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in TEST_ONLY])
def test_base_and_new_share_the_few_shots(name, tmp_path, make):
    classnames = LAYOUTS[name][0](tmp_path)
    whole, base, new = (make(name, tmp_path, NUM_SHOTS=2, SUBSAMPLE_CLASSES=part) for part in ("all", "base", "new"))
    half = -(-len(classnames) // 2)
    assert base.classnames == classnames[:half] and new.classnames == classnames[half:]
    assert sorted(d.impath for made in (base, new) for d in made.train_x) == sorted(d.impath for d in whole.train_x)
    assert Counter(d.label for d in whole.train_x) == dict.fromkeys(range(len(classnames)), 2)


@pytest.mark.parametrize(
    ("name", "path", "lines", "words"),
    [
        ("OxfordPets", "oxford_pets/annotations/test.txt", ["cat_1 1"], "line 'cat_1 1'; it should be 'image label"),
        ("OxfordPets", "oxford_pets/annotations/test.txt", ["cat_1 0 1 1"], "label '0'; it should be a number from 1"),
        ("OxfordPets", "oxford_pets/annotations/test.txt", [], "test.txt is empty"),
        ("OxfordPets", "oxford_pets/annotations/test.txt", ["cat_1 1 1 1"], r"no such image: .*cat_1\.jpg"),
        ("FGVCAircraft", "fgvc_aircraft/variants.txt", ["A"], "variants.txt does not name the class"),
        ("SUN397", "sun397/ClassName.txt", ["/a/abbey"], "ClassName.txt does not name the class"),
        ("UCF101", "ucf101/ucfTrainTestlist/classInd.txt", ["x Archery"], "label 'x'"),
        ("OxfordFlowers", "oxford_flowers/cat_to_name.json", ["{}"], "has no name for class 2"),
        ("OxfordFlowers", "oxford_flowers/imagelabels.mat", ["?"], "is not a MATLAB file"),
        ("ImageNetA", "imagenet-adversarial/classnames.txt", ["n01440764 tench"], "does not name the class 'n0"),
        ("ImageNetV2", "imagenetv2/classnames.txt", ["n01440764 tench"], "has 3 class folders; classnames.txt names 1"),
    ],
)
def test_bad_annotations_are_named(name, path, lines, words, tmp_path, make):
    LAYOUTS[name][0](tmp_path)
    text(tmp_path / path, lines)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        make(name, tmp_path)
    assert "\n" not in str(caught.value) and f"check {name}" in str(caught.value)
