"""CoOp's fifteen sets, each read from a small folder in its real layout."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY

from datasets.catalog import CATALOG
from prompting.clip.templates import TEMPLATES
from tests.reference.layouts import LAYOUTS, put, text

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"
TEST_ONLY = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")
CLASS_FOLDERS = ("Caltech101", "Food101", "DescribableTextures", "EuroSAT")
YAML = {
    "caltech101": "Caltech101", "dtd": "DescribableTextures", "eurosat": "EuroSAT", "fgvc_aircraft": "FGVCAircraft",
    "food101": "Food101", "imagenet": "ImageNet", "imagenet_a": "ImageNetA", "imagenet_r": "ImageNetR",
    "imagenet_sketch": "ImageNetSketch", "imagenetv2": "ImageNetV2", "oxford_flowers": "OxfordFlowers",
    "oxford_pets": "OxfordPets", "stanford_cars": "StanfordCars", "sun397": "SUN397", "ucf101": "UCF101",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".cache" / "align"


def config(root, shots=-1, subsample="all"):
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES = str(root), shots, subsample
    return cfg


def make(name, root, seed=1, **options):
    random.seed(seed)
    return DATASET_REGISTRY.get(name)(config(root, **options))


def rows(items, made):
    return [(Path(os.path.relpath(d.impath, made.image_dir)).as_posix(), d.label, d.classname) for d in items]


def test_all_fifteen_have_a_yaml_of_coops_name_and_a_class():
    found = {path.stem: yaml.safe_load(path.read_text())["DATASET"] for path in CONFIGS.glob("*.yaml")}
    assert {stem: node for stem, node in found.items() if stem in YAML} == {k: {"NAME": v} for k, v in YAML.items()}
    assert set(CATALOG) == set(YAML.values()) == set(LAYOUTS)
    assert set(TEMPLATES) <= set(DATASET_REGISTRY.registered_names())


@pytest.mark.parametrize("name", LAYOUTS)
def test_classes_names_and_counts(name, tmp_path):
    maker, counts = LAYOUTS[name]
    classnames = maker(tmp_path)
    made = make(name, tmp_path)
    assert made.classnames == classnames and made.num_classes == len(classnames)
    parts = [] if name in TEST_ONLY else made.train_x, made.val or [], made.test
    assert tuple(map(len, parts)) == counts
    for part in parts:
        assert {d.classname for d in part} in (set(), set(classnames))
        assert all(classnames[d.label] == d.classname for d in part)
    paths = [d.impath for part in parts for d in part]
    assert len(set(paths)) == len(paths) and all(os.path.isabs(path) for path in paths)
    if name in TEST_ONLY:
        assert made.train_x == made.test and made.val is None


@pytest.mark.parametrize("name", TEST_ONLY)
def test_variants_ignore_shots_and_halves(name, tmp_path):
    classnames = LAYOUTS[name][0](tmp_path)
    made = make(name, tmp_path, shots=1, subsample="new")
    assert made.classnames == classnames and len(made.test) == LAYOUTS[name][1][2]
    assert not list(tmp_path.rglob("shot_*"))


@pytest.mark.parametrize("name", CLASS_FOLDERS)
def test_class_folders_are_cut_with_coops_random_numbers(name, tmp_path):
    LAYOUTS[name][0](tmp_path)
    made = make(name, tmp_path, seed=5)
    random.seed(5)
    train, val, test = [], [], []
    for folder in sorted(p for p in Path(made.image_dir).iterdir() if p.is_dir() and not p.name.startswith(".")):
        if folder.name in ("BACKGROUND_Google", "Faces_easy"):
            continue
        images = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        random.shuffle(images)
        n, m = round(len(images) * 0.5), round(len(images) * 0.2)
        train += [f"{folder.name}/{image}" for image in images[:n]]
        val += [f"{folder.name}/{image}" for image in images[n : n + m]]
        test += [f"{folder.name}/{image}" for image in images[n + m :]]
    for part, expected in ((made.train_x, train), (made.val, val), (made.test, test)):
        assert [row[0] for row in rows(part, made)] == expected


def held_out(trainval):
    """The rule, label by label: shuffle the numbers of its images, the first 20 % are for validation."""
    train, val = [], []
    for label in dict.fromkeys(row[1] for row in trainval):
        numbers = [i for i, row in enumerate(trainval) if row[1] == label]
        count = round(len(numbers) * 0.2)
        random.shuffle(numbers)
        val += [trainval[i] for i in numbers[:count]]
        train += [trainval[i] for i in numbers[count:]]
    return train, val


def test_pets_hold_out_val_with_coops_random_numbers(tmp_path):
    LAYOUTS["OxfordPets"][0](tmp_path)
    made = make("OxfordPets", tmp_path, seed=3)
    trainval = []
    for line in (tmp_path / "oxford_pets" / "annotations" / "trainval.txt").read_text().splitlines():
        image, label, *_ = line.split(" ")
        trainval.append((f"{image}.jpg", int(label) - 1, "_".join(image.split("_")[:-1]).lower()))
    random.seed(3)
    train, val = held_out(trainval)
    after = random.random()
    assert rows(made.train_x, made) == train and rows(made.val, made) == val
    random.seed(3)
    DATASET_REGISTRY.get("OxfordPets").description.read(tmp_path / "oxford_pets", tmp_path / "oxford_pets" / "images")
    assert random.random() == after


def test_the_few_shots_after_a_drawn_split_go_on_in_the_same_random_stream(tmp_path):
    LAYOUTS["UCF101"][0](tmp_path)
    whole = make("UCF101", tmp_path, seed=9)
    os.remove(tmp_path / "ucf101" / "split_zhou_UCF101.json")
    few = make("UCF101", tmp_path, seed=9, shots=2)
    random.seed(9)
    held_out(rows(whole.train_x, whole) + rows(whole.val, whole))  # uses the numbers that the split used
    expected = []
    for label in range(3):
        expected += random.sample([row for row in rows(whole.train_x, whole) if row[1] == label], 2)
    assert rows(few.train_x, few) == expected
    for label in range(3):
        expected += random.sample([row for row in rows(whole.val, whole) if row[1] == label], 2)
    assert rows(few.train_x, few) + rows(few.val, few) == expected


@pytest.mark.parametrize("name", [n for n in LAYOUTS if CATALOG[n].description.split])
def test_a_drawn_split_is_written_as_coop_writes_it_and_read_again(name, tmp_path):
    LAYOUTS[name][0](tmp_path)
    first = make(name, tmp_path, seed=1)
    about = CATALOG[name].description
    content = json.loads((tmp_path / about.folder / f"split_zhou_{name}.json").read_text())
    assert content.keys() == {"train", "val", "test", "drawn"} and content["drawn"] == {"seed": 1}
    assert first.split_drawn == {"seed": 1} and Path(first.split_path).name == f"split_zhou_{name}.json"
    assert [tuple(row) for row in content["train"]] == rows(first.train_x, first)
    second = make(name, tmp_path, seed=2)
    assert rows(second.train_x, second) == rows(first.train_x, first)
    assert rows(second.test, second) == rows(first.test, first)
    for row in content["train"] + content["val"] + content["test"]:
        assert row[0].split("/")[0] in ("cars_train", "cars_test") if name == "StanfordCars" else ".." not in row[0]


def test_of_two_runs_at_the_same_time_both_take_the_split_that_was_drawn_first(tmp_path, monkeypatch):
    LAYOUTS["Food101"][0](tmp_path)
    about = CATALOG["Food101"].description
    meanwhile = []

    def read(folder, images):
        listing = about.read(folder, images)
        if not meanwhile:  # while seed 2 lists its images, a whole run of seed 1 comes and goes
            meanwhile.append(None)
            meanwhile.append(make("Food101", tmp_path, seed=1))
        return listing

    monkeypatch.setattr(CATALOG["Food101"], "description", replace(about, read=read))
    second = make("Food101", tmp_path, seed=2)
    first, again = meanwhile[1], make("Food101", tmp_path, seed=3)
    assert rows(second.train_x, second) == rows(first.train_x, first) == rows(again.train_x, again)


def test_a_split_file_needs_no_annotations(tmp_path):
    folder = tmp_path / "stanford_cars"
    put(folder, ["cars_train/a.jpg", "cars_test/b.jpg"])
    split = {"train": [["cars_train/a.jpg", 0, "x"]], "val": [], "test": [["cars_test/b.jpg", 0, "x"]]}
    (folder / "split_zhou_StanfordCars.json").write_text(json.dumps(split))
    made = make("StanfordCars", tmp_path)
    assert made.classnames == ["x"] and made.val is None and made.split_drawn is None


def test_the_labels_of_a_split_file_fit_together_but_names_may_repeat(tmp_path):
    folder = tmp_path / "dtd"
    put(folder / "images", ["a.jpg"])
    split = {"train": [["a.jpg", 0, "x"], ["a.jpg", 1, "x"]], "test": [["a.jpg", 1, "x"]]}
    path = folder / "split_zhou_DescribableTextures.json"
    path.write_text(json.dumps(split))
    assert make("DescribableTextures", tmp_path).classnames == ["x", "x"]
    path.write_text(json.dumps({**split, "test": [["a.jpg", 2, "y"]]}))
    with pytest.raises(ValueError, match=r"class 'y' \(label 2\) is in test, but not in train.*; `python -m datasets"):
        make("DescribableTextures", tmp_path)


def test_classes_of_imagenet_may_share_a_name(tmp_path):
    for name in ("ImageNet", "ImageNetA"):
        LAYOUTS[name][0](tmp_path)
        path = tmp_path / CATALOG[name].description.folder / "classnames.txt"
        path.write_text("".join(f"{line.split()[0]} crane\n" for line in path.read_text().splitlines()))
        assert set(make(name, tmp_path).classnames) == {"crane"}


def test_a_split_goes_to_the_cache_where_the_data_cannot_be_written(tmp_path, cache, monkeypatch):
    LAYOUTS["Food101"][0](tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    first = make("Food101", tmp_path, shots=1)
    (place,) = cache.iterdir()
    kept = sorted(path.relative_to(place).as_posix() for path in place.rglob("*.json"))
    assert place.name.startswith("food-101-")
    assert kept == ["split_fewshot/shot_1-seed_1.json", "split_zhou_Food101.json"]
    assert sorted(path.name for path in (tmp_path / "food-101").iterdir()) == ["images", "meta"]
    second = make("Food101", tmp_path, seed=2, shots=1)
    assert rows(second.train_x, second) == rows(first.train_x, first)


def test_folders_of_one_name_share_no_cache(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for place in ("one", "two"):
        LAYOUTS["Food101"][0](tmp_path / place)
    image = tmp_path / "two" / "food-101" / "images"
    renamed = image / "apple_pie_too"
    next(iter(sorted(image.iterdir()))).rename(renamed)
    first, second = (make("Food101", tmp_path / place, shots=1) for place in ("one", "two"))
    assert first.classnames != second.classnames and renamed.name in second.classnames
    assert len(list(cache.iterdir())) == 2
    (tmp_path / "link").symlink_to(tmp_path / "one")  # one folder by two names: one cache
    linked = make("Food101", tmp_path / "link", seed=2)
    assert rows(linked.test, linked) == rows(first.test, first)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in TEST_ONLY])
def test_base_and_new_share_the_few_shots(name, tmp_path):
    classnames = LAYOUTS[name][0](tmp_path)
    whole, base, new = (make(name, tmp_path, shots=2, subsample=part) for part in ("all", "base", "new"))
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
        ("OxfordFlowers", "oxford_flowers/imagelabels.mat", ["?"], "is no MATLAB file"),
        ("ImageNetA", "imagenet-adversarial/classnames.txt", ["n01440764 tench"], "does not name the class 'n0"),
        ("ImageNetV2", "imagenetv2/classnames.txt", ["n01440764 tench"], "has 3 class folders; classnames.txt names 1"),
    ],
)
def test_bad_annotations_are_named(name, path, lines, words, tmp_path):
    LAYOUTS[name][0](tmp_path)
    text(tmp_path / path, lines)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        make(name, tmp_path)
    assert "\n" not in str(caught.value) and f"check {name}" in str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_empty_folder_is_named(name, tmp_path):
    (tmp_path / CATALOG[name].description.folder).mkdir()
    with pytest.raises(FileNotFoundError, match="not found|no folder"):
        make(name, tmp_path)
