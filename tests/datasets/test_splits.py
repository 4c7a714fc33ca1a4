"""Split files, few-shot draws, base and new."""

from __future__ import annotations

import hashlib
import json
import random

import pytest
from dassl.data.datasets import DatasetBase, Datum

from datasets.splits import Split, cache_folder, few_shot, read_split, subsample_classes


@pytest.fixture
def images(tmp_path):
    """A folder of empty files, 6 training, 5 validation and 2 test images of each of 5 classes, classes mixed up."""
    folder = tmp_path / "set" / "images"
    rows = {"train": [], "val": [], "test": []}
    for part, count in (("train", 6), ("val", 5), ("test", 2)):
        for number in range(count):
            for label in (3, 1, 4, 0, 2):
                path = f"c{label}/{part}{number}.png"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).touch()
                rows[part].append([path, label, f"class {label}"])
    (tmp_path / "set" / "split.json").write_text(json.dumps(rows))
    return folder


def dassl_draw(items, shots):
    return DatasetBase.generate_fewshot_dataset(DatasetBase(train_x=items, test=items), items, num_shots=shots)


def naive_draw(items: list[Datum], shots: int) -> list[Datum]:
    """The ecosystem's rule, word for word: labels in order of first appearance, random.sample of each."""
    labels = []
    for item in items:
        if item.label not in labels:
            labels.append(item.label)
    drawn = []
    for label in labels:
        mine = [item for item in items if item.label == label]
        drawn += random.sample(mine, shots) if len(mine) >= shots else mine
    return drawn


def key(items):
    return [(d.impath, d.label, d.domain, d.classname) for d in items]


def test_read_split(images):
    split = read_split(images.parent / "split.json", images)
    assert [len(part) for part in split] == [30, 25, 10]
    assert key(split.train[:1]) == [(str(images / "c3/train0.png"), 3, 0, "class 3")]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, FileNotFoundError, "split file not found"),
        ("[", ValueError, "is not JSON"),
        ("[]", ValueError, "holds a list"),
        ('{"train": [["c0/train0.png", 0, "a"]]}', ValueError, "'test' is missing"),
        ('{"train": [], "test": [["c0/train0.png", 0, "a"]]}', ValueError, "'train' is empty"),
        ('{"train": [["c0/train0.png", 0]], "test": [[]]}', ValueError, "row 0: found"),
        ('{"train": [["c0/train0.png", "0", "a"]], "test": [[]]}', ValueError, "row 0: found"),
        ('{"train": [["c0/nope.png", 0, "a"]], "test": [[]]}', FileNotFoundError, r"no such image: .*c0/nope\.png"),
        ('{"train": [["../x.png", 0, "a"]], "test": [[]]}', ValueError, "leaves the folder"),
    ],
)
def test_bad_split_files_are_named(images, content, error, words):
    path = images.parent / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=words) as caught:
        read_split(path, images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shots", [1, 2, 4, 6, 16])
def test_few_shots_are_drawn_by_the_ecosystems_rule(images, tmp_path, shots):
    split = read_split(images.parent / "split.json", images)
    random.seed(7)
    train, val = naive_draw(split.train, shots), naive_draw(split.val, min(shots, 4))
    after = random.random()
    random.seed(7)
    drawn = few_shot(split, shots, 7, images, tmp_path / "cache", dassl_draw)
    assert key(drawn.train) == key(train) and key(drawn.val) == key(val) and drawn.test == split.test
    assert random.random() == after  # no other random number was used


def test_pythons_sample_is_the_one_that_published_draws_used():
    random.seed(1)
    assert random.sample(range(20), 5) == [4, 18, 2, 8, 3]


def test_a_draw_is_kept_and_read_without_random_numbers(images, tmp_path):
    split = read_split(images.parent / "split.json", images)
    random.seed(1)
    first = few_shot(split, 2, 1, images, tmp_path / "cache", dassl_draw)
    kept = tmp_path / "cache" / "shot_2-seed_1.json"
    content = json.loads(kept.read_text())
    assert all(not row[0].startswith("/") for part in ("train", "val") for row in content[part])
    assert [p.name for p in kept.parent.iterdir()] == ["shot_2-seed_1.json"]
    state = random.getstate()
    second = few_shot(split, 2, 1, images, tmp_path / "cache", dassl_draw)
    assert random.getstate() == state
    assert key(first.train) == key(second.train) and key(first.val) == key(second.val)


def test_a_kept_draw_is_checked(images, tmp_path):
    split = read_split(images.parent / "split.json", images)
    few_shot(split, 2, 1, images, tmp_path, dassl_draw)
    path = tmp_path / "shot_2-seed_1.json"
    right = json.loads(path.read_text())
    with pytest.raises(ValueError, match="another split"):
        few_shot(Split(split.train[1:], split.val, split.test), 2, 1, images, tmp_path, dassl_draw)
    path.write_text(json.dumps({**right, "train": [["c0/test0.png", 0, "class 0"]]}))
    with pytest.raises(ValueError, match=r"c0/test0\.png, which the split does not"):
        few_shot(split, 2, 1, images, tmp_path, dassl_draw)
    path.write_text(json.dumps({**right, "val": None}))
    with pytest.raises(ValueError, match="'val' is a NoneType"):
        few_shot(split, 2, 1, images, tmp_path, dassl_draw)
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        few_shot(split, 2, 1, images, tmp_path, dassl_draw)


def test_where_draws_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(tmp_path) == tmp_path / "split_fewshot"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    name = f"{tmp_path.name}-{hashlib.sha256(str(tmp_path.resolve()).encode()).hexdigest()[:8]}"
    assert cache_folder(tmp_path) == tmp_path / "home" / ".cache" / "align" / name / "split_fewshot"
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder(tmp_path) == tmp_path / "elsewhere" / name / "split_fewshot"


def test_base_and_new(images):
    split = read_split(images.parent / "split.json", images)
    assert subsample_classes(split, "all") is split
    base, new = subsample_classes(split, "base"), subsample_classes(split, "new")
    # 5 labels: base is 0, 1, 2 as they are; new is 3, 4, which become 0, 1
    assert {(d.label, d.classname) for d in base.train} == {(0, "class 0"), (1, "class 1"), (2, "class 2")}
    assert {(d.label, d.classname) for d in new.test} == {(0, "class 3"), (1, "class 4")}
    assert len(base.train) + len(new.train) == 30 and len(base.val) == 15 and len(new.test) == 4
    assert [d.impath for d in base.train] == [d.impath for d in split.train if d.label < 3]


def test_a_wrong_or_empty_selection_is_named(images):
    split = read_split(images.parent / "split.json", images)
    with pytest.raises(ValueError, match="SUBSAMPLE_CLASSES is 'bas'; allowed: all, base, new. Did you mean 'base'?"):
        subsample_classes(split, "bas")
    one = Split(*([d for d in part if d.label == 0] for part in split))
    with pytest.raises(ValueError, match="'new' leaves train empty"):
        subsample_classes(one, "new")
    with pytest.raises(ValueError, match="'base' leaves test empty"):
        subsample_classes(split._replace(test=[d for d in split.test if d.label > 2]), "base")
