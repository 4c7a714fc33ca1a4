"""Few-shot draws against the ecosystem's rule; kept draws, CoOp's pickles, and what is refused; base and new."""

import json
import os
import pickle
import random

import pytest
from dassl.data.datasets import Datum

from datasets.fewshot import few_shot, relocate, unpickle_draw
from datasets.splits import Row, Split, subsample_classes


@pytest.fixture
def split() -> Split:
    """Six training, five validation and two test images of each of five classes, classes mixed up."""
    order = (3, 1, 4, 0, 2)
    return Split(
        *(
            [Row(f"c{label}/{part}{n}.jpg", label, f"class {label}") for n in range(count) for label in order]
            for part, count in (("train", 6), ("val", 5), ("test", 2))
        )
    )


@pytest.fixture
def read(split, tmp_path):
    """Return a function that reads or draws 2 shots of a split with seed 1."""
    return lambda split=split: few_shot(split, 2, 1, tmp_path / "json", tmp_path / "old")


def naive_draw(rows, shots):
    """The rule: labels in order of first appearance, random.sample of each."""
    groups = ([row for row in rows if row.label == label] for label in dict.fromkeys(row.label for row in rows))
    return [row for group in groups for row in (random.sample(group, shots) if len(group) >= shots else group)]


@pytest.mark.parametrize("shots", [1, 4, 6, 16])
def test_few_shots_are_drawn_by_the_ecosystems_rule(split, tmp_path, shots):
    random.seed(7)
    train, val = naive_draw(split.train, shots), naive_draw(split.val, min(shots, 4))
    after = random.random()
    random.seed(7)
    assert few_shot(split, shots, 7, tmp_path, tmp_path) == Split(train, val, split.test)
    assert random.random() == after  # no other random number is used
    state = random.getstate()
    assert few_shot(split, shots, 7, tmp_path, tmp_path) == Split(train, val, split.test)  # now from the file
    assert random.getstate() == state and [p.name for p in tmp_path.iterdir()] == [f"shot_{shots}-seed_7.json"]


def test_a_kept_draw_is_checked(split, tmp_path, read):
    read()
    path = tmp_path / "json" / "shot_2-seed_1.json"
    right = json.loads(path.read_text())
    with pytest.raises(ValueError, match="another split"):
        read(split._replace(train=split.train[1:]))
    for content, words in (
        ({**right, "train": [["c0/test0.jpg", 0, "class 0"]]}, r"c0/test0\.jpg, which the split does not"),
        ({**right, "val": None}, "'val' is a NoneType"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            read()


# ---- pickles of CoOp


def moved(row: Row, root: str, **changes) -> Datum:
    """A Datum as another machine pickled it."""
    other = Datum.__new__(Datum)
    vars(other).update(_impath=root + row.path, _label=row.label, _domain=0, _classname=row.classname, **changes)
    return other


def dump(folder, content, protocol=pickle.HIGHEST_PROTOCOL):
    folder.mkdir(exist_ok=True)
    path = folder / "shot_2-seed_1.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol, root", [(2, "/home/kz/data/set/images/"), (5, "/somewhere/else/")])
def test_a_pickled_draw_is_mapped_to_this_root(split, tmp_path, read, protocol, root):
    train, val = [split.train[i] for i in (4, 1, 9, 6)], [split.val[i] for i in (2, 0, 5, 4)]
    dump(tmp_path / "old", {"train": [moved(d, root) for d in train], "val": [moved(d, root) for d in val]}, protocol)
    state = random.getstate()
    assert read() == Split(train, val, split.test)
    assert random.getstate() == state and not (tmp_path / "json").exists()


def test_our_draw_has_precedence_and_val_may_be_missing_with_the_splits(split, tmp_path, read):
    path = dump(tmp_path / "old", {"train": [moved(d, "/x/") for d in split.train[:2]]})
    assert read(split._replace(val=[])).train == split.train[:2]
    with pytest.raises(ValueError, match="2 training and 0 validation images"):
        read()
    content = path.read_bytes()
    path.unlink()
    first = read()
    path.write_bytes(content)
    assert read() == first


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": [Evil()]}, r"it names (posix|nt)\.system; allowed: Datum, list, dict, str, int"),
        ({"train": [eval]}, r"it names builtins\.eval"),
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
        unpickle_draw(path)
    assert not (tmp_path / "evil").exists()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is refused"):
        unpickle_draw(path)


def test_a_pickle_cannot_change_our_classes(tmp_path):
    # c<module>\n<name>\n names the class; (N}S'...' builds a state for its attributes
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cdassl.data.datasets.base_dataset\nDatum\n(N}S'impath'\nS'changed'\nstb.")
    with pytest.raises(ValueError):
        unpickle_draw(path)
    assert isinstance(Datum.impath, property)


@pytest.mark.parametrize("change", [{"_label": 1}, {"_classname": "other"}, {"_impath": "/x/c0/test0.jpg"}])
def test_a_pickle_of_another_split_is_refused(split, tmp_path, read, change):
    item = moved(split.train[0], "/x/")
    vars(item).update(change)
    dump(tmp_path / "old", {"train": [item], "val": []})
    with pytest.raises(ValueError, match="drawn from another split: it holds .*; restore that split file or remove"):
        read()


def test_relocate_takes_the_longest_tail():
    known = {"a/b.jpg", "c/a/b.jpg"}
    assert relocate("/data/c/a/b.jpg", known) == "c/a/b.jpg"
    assert relocate("C:\\data\\x\\a\\b.jpg", known) == "a/b.jpg"
    assert relocate("/data/b.jpg", known) == ""


# ---- base and new classes


def test_base_and_new(split):
    """Of 5 labels, base keeps 0, 1, 2; new keeps 3, 4, which become 0, 1."""
    base, new = subsample_classes(split, "base"), subsample_classes(split, "new")
    assert base == Split(*([row for row in part if row.label < 3] for part in split))
    assert new == Split(*([row._replace(label=row.label - 3) for row in part if row.label > 2] for part in split))


def test_a_wrong_or_empty_selection_is_named(split):
    with pytest.raises(ValueError, match="SUBSAMPLE_CLASSES is 'bas'; allowed: all, base, new; did you mean 'base'"):
        subsample_classes(split, "bas")
    with pytest.raises(ValueError, match="'new' leaves train empty"):
        subsample_classes(Split(*([row for row in part if row.label == 0] for part in split)), "new")
    with pytest.raises(ValueError, match="'base' leaves test empty"):
        subsample_classes(split._replace(test=[row for row in split.test if row.label > 2]), "base")
