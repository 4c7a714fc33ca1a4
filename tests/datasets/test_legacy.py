"""Few-shot pickles of CoOp: read, and refused if they name anything else."""

from __future__ import annotations

import json
import os
import pickle
import random

import pytest
from dassl.data.datasets import Datum

from datasets.legacy import read_pickled_draw, relocate
from datasets.splits import Split, few_shot, read_split
from tests.reference.layouts import put


@pytest.fixture
def split(tmp_path) -> Split:
    """Six training, three validation and one test image of each of two classes."""
    content = {
        part: [[f"c{label}/{part}{n}.jpg", label, f"class {label}"] for label in (0, 1) for n in range(count)]
        for part, count in (("train", 6), ("val", 3), ("test", 1))
    }
    put(tmp_path / "images", [row[0] for rows in content.values() for row in rows])
    (tmp_path / "split.json").write_text(json.dumps(content))
    return read_split(tmp_path / "split.json", tmp_path / "images")


def moved(item: Datum, root: str) -> Datum:
    """A Datum as another machine pickled it."""
    other = Datum.__new__(Datum)
    path = root + "/".join(item.impath.split("/")[-2:])
    vars(other).update(_impath=path, _label=item.label, _domain=0, _classname=item.classname)
    return other


def dump(folder, content, protocol=pickle.HIGHEST_PROTOCOL):
    folder.mkdir(exist_ok=True)
    path = folder / "shot_2-seed_1.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def read(split, tmp_path):
    return few_shot(
        split, 2, 1, tmp_path / "images", tmp_path / "cache", lambda *_: pytest.fail("drawn"), tmp_path / "old"
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("root", ["/home/kz/data/set/images/", "/somewhere/else/"])
def test_a_pickled_draw_is_mapped_to_this_root(split, tmp_path, protocol, root):
    train, val = [split.train[i] for i in (4, 1, 9, 6)], [split.val[i] for i in (2, 0, 5, 4)]
    dump(tmp_path / "old", {"train": [moved(d, root) for d in train], "val": [moved(d, root) for d in val]}, protocol)
    state = random.getstate()
    assert read(split, tmp_path) == Split(train, val, split.test)
    assert random.getstate() == state
    assert not (tmp_path / "cache").exists()


def test_a_draw_of_train_only_is_enough_where_there_is_no_val(split, tmp_path):
    dump(tmp_path / "old", {"train": [moved(d, "/x/") for d in split.train[:2]]})
    assert read(split._replace(val=[]), tmp_path).train == split.train[:2]
    with pytest.raises(ValueError, match="2 training and 0 validation images"):
        read(split, tmp_path)


def test_our_own_draw_comes_first(split, tmp_path):
    dump(tmp_path / "old", {"train": [], "val": []})
    few_shot(split, 2, 1, tmp_path / "images", tmp_path / "cache", lambda items, n: items[:n])
    assert [d.impath for d in read(split, tmp_path).train] == [d.impath for d in split.train[:2]]


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": [Evil()]}, r"it names (posix|nt)\.system; allowed: Datum, list, dict, str, int"),
        ({"train": [eval]}, r"it names builtins\.eval"),
        ({"train": [getattr]}, r"it names builtins\.getattr"),
        ({"train": [random.Random]}, r"it names random\.Random"),
        ({"train": {1, 2}}, "does not hold a dictionary of lists"),
        ([1], "does not hold a dictionary of lists"),
        ({"train": ["text"]}, "holds a str that is no Datum"),
    ],
)
def test_everything_else_is_refused(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    path = dump(tmp_path, content)
    with pytest.raises(ValueError, match=words):
        read_pickled_draw(path)
    assert not (tmp_path / "evil").exists()


def test_a_damaged_pickle_is_refused(tmp_path):
    path = dump(tmp_path, {"train": []})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is refused"):
        read_pickled_draw(path)


def test_a_pickle_cannot_change_our_classes(tmp_path):
    # c<module>\n<name>\n names the class; (N}(S'...' builds a state for its attributes
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cdassl.data.datasets.base_dataset\nDatum\n(N}S'impath'\nS'changed'\nstb.")
    with pytest.raises(ValueError):
        read_pickled_draw(path)
    assert isinstance(Datum.impath, property)


@pytest.mark.parametrize("change", [{"_label": 1}, {"_classname": "other"}, {"_impath": "/x/c0/test0.jpg"}])
def test_a_draw_from_another_split_is_refused(split, tmp_path, change):
    item = moved(split.train[0], "/x/")
    vars(item).update(change)
    dump(tmp_path / "old", {"train": [item], "val": []})
    with pytest.raises(ValueError, match="drawn from another split: it holds .*; bring back that split file or remove"):
        read(split, tmp_path)


def test_relocate_takes_the_longest_tail():
    known = {"a/b.jpg", "c/a/b.jpg"}
    assert relocate("/data/c/a/b.jpg", known) == "c/a/b.jpg"
    assert relocate("C:\\data\\x\\a\\b.jpg", known) == "a/b.jpg"
    assert relocate("/data/b.jpg", known) is None
