"""The committed pictures: licences, NOTICE, no copies between splits, benchmark and pre-training."""

import re
import shutil
from collections import Counter, defaultdict
from functools import partial

import numpy as np
import pytest

from datasets.mini.iconify import LICENCES
from datasets.mini.likeness import NEAR, perceptual_hash
from datasets.mini.names import plain_name, suite_class
from datasets.mini.pack import OWN_WORDS, SUMS, WORLD, read_manifest, read_picture, read_pretraining, write_sums
from datasets.mini.roles import FULL, HELD_OUT, LEAST, LEAST_SHIFT, SHIFTS


@pytest.fixture(scope="module")
def manifest():
    return read_manifest()


@pytest.fixture(scope="module")
def notice():
    """Licence of each set by its name, from the tables of the NOTICE."""
    text = (WORLD / "NOTICE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| .* \| \[([^\]]+)\]\(([^)]+)\) \| [\d,]+ \|$", text, re.MULTILINE)
    for _, licence, place in rows:
        assert place.startswith("https://") or (WORLD / place).is_file(), licence
    return {name: licence for name, licence, _ in rows}


def test_licences(manifest, notice):
    assert manifest
    for entry in manifest:
        assert entry.licence in LICENCES and notice[entry.hand] == entry.licence, entry
    assert {hand for hand, _, _ in read_pretraining()} <= set(notice)
    assert set(notice.values()) <= set(LICENCES)


def bits(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, m): in how many bits hashes differ."""
    return np.bitwise_count(hashes[:, None] ^ others[None])


def test_no_two_pictures_of_a_class_are_copies(manifest):
    classes = defaultdict(list)
    for entry in manifest:
        classes[entry.classname].append(entry)
    for entries in classes.values():
        codes = np.array([int(e.hash, 16) for e in entries], np.uint64)
        near = bits(codes, codes) <= NEAR
        for i, j in zip(*np.nonzero(np.triu(near, 1))):
            a, b = entries[i], entries[j]
            # shifts are compared with the source, not with one another: they are never trained on
            assert {a.dataset, b.dataset} <= set(SHIFTS) and a.dataset != b.dataset, (a, b)


@pytest.mark.slow
def test_pre_training_sees_no_hand_and_no_copy_of_the_benchmark(manifest):
    rows = read_pretraining()
    assert not {hand for hand, _, _ in rows} & HELD_OUT
    assert {e.hand for e in manifest} <= HELD_OUT
    known = np.unique(np.array([int(code, 16) for _, _, code in rows], np.uint64))
    shown = np.array([int(e.hash, 16) for e in manifest], np.uint64)[::20]
    for part in np.array_split(known, 40):
        assert (bits(shown, part) > NEAR).all()


def test_hashes_are_those_of_the_tiles(manifest):
    for entry in manifest[::300]:
        assert f"{perceptual_hash(read_picture(entry)):016x}" == entry.hash


def test_every_class_has_enough_pictures(manifest):
    counts = Counter((e.dataset, e.classname, e.split) for e in manifest)
    for dataset, classname in {(e.dataset, e.classname) for e in manifest}:
        found = {split: counts[dataset, classname, split] for split in FULL}
        if dataset == OWN_WORDS:
            assert found["test"] >= LEAST["test"] and not suite_class(classname)
        elif dataset in SHIFTS:
            assert found["test"] >= LEAST_SHIFT and found["train"] == found["val"] == 0
            assert counts["mini_source", classname, "test"]
        else:
            least = FULL if dataset == "mini_source" else LEAST
            assert all(found[split] >= least[split] for split in FULL), (dataset, classname, found)


def test_names_belong_to_one_class():
    assert suite_class("doughnut") == ("mini_food", "donut") and suite_class("cat face") == ("mini_animals", "cat")
    assert suite_class("cricket", "noto") is None and suite_class("cricket", "tabler") == ("mini_sports", "cricket")
    for word in ("mouse trap", "seal", "crane", "nut", "bolt", "diamond"):
        assert suite_class(word) is None


def test_plain_names():
    for icon, styles, name in (
        ("home-2-bold", ("bold",), "home"), ("alarm-clock-fill", (), "alarm clock"), ("sharp-bug", ("sharp",), "bug"),
        ("counter-5-outline-rounded", ("outline-rounded",), "digit 5"), ("keycap-7", (), "digit 7"),
        ("number-circle-eight-light", ("light",), "digit 8"), ("dice-3", (), "dice"), ("24", (), "24"),
    ):  # fmt: skip
        assert plain_name(icon, styles) == name


def test_a_damaged_file_is_refused(tmp_path):
    for name in ("manifest.csv", "mini_pixel.masks.png", SUMS):
        shutil.copy(WORLD / name, tmp_path)
    entry = next(entry for entry in read_manifest(tmp_path) if entry.dataset == "mini_pixel")
    assert np.array_equal(read_picture(entry, tmp_path), read_picture(entry))
    for name, read in (("manifest.csv", read_manifest), ("mini_pixel.masks.png", partial(read_picture, entry))):
        content = (tmp_path / name).read_bytes()
        middle = content.index(b"\n", len(content) // 2) + 1  # a whole line: the rest is a manifest of fewer pictures
        for i, damaged in enumerate((content[:middle], content[:99] + bytes([content[99] ^ 1]) + content[100:], b"")):
            world = tmp_path / f"{name}-{i}"
            world.mkdir()
            shutil.copy(WORLD / SUMS, world)
            (world / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=f"{world / name} is damaged: .* restore it"):
                read(world)


def test_sums_are_those_of_the_files(tmp_path):
    shutil.copytree(WORLD, tmp_path / "world")
    write_sums(tmp_path / "world")
    assert (tmp_path / "world" / SUMS).read_text() == (WORLD / SUMS).read_text()
