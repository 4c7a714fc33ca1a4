"""The maintainer's build, on a package of a few made-up sets: what is read, what is chosen, what is written."""

import json
from collections import Counter

import numpy as np
import pytest

from datasets.mini.build import write_benchmark
from datasets.mini.iconify import IconSet, read_icons, read_sets, render, trademarks
from datasets.mini.likeness import copies_of, distinct, perceptual_hash
from datasets.mini.notice import notice
from datasets.mini.pack import read_picture, read_pretraining, write_pretraining
from datasets.mini.pretraining_pack import read_pack, write_pack
from datasets.mini.roles import FULL, HANDS, HELD_OUT, Picture, choose, split_class

SQUARE = '<path fill="currentColor" d="M4 4h16v16H4z"/>'


@pytest.fixture
def package(tmp_path):
    """Three sets: one to use, one under the GPL, three of companies' marks."""
    about = {"good": ("MIT", "UI 24px"), "gnu": ("GPL-3.0", "UI 24px")}
    about.update({f"marks{i}": ("CC0-1.0", "Logos") for i in range(3)})
    (tmp_path / "json").mkdir()
    index = {}
    for name, (licence, category) in about.items():
        index[name] = {"name": name.title(), "author": {"name": "A. Hand", "url": "https://example.org"},
                       "license": {"spdx": licence}, "category": category, "palette": False}  # fmt: skip
        icons = {
            "acme": {"body": SQUARE},
            "bell-bold": {"body": SQUARE, "width": 12},
            "old": {"body": "", "hidden": True},
        }
        content = {"icons": icons, "aliases": {"ring": {"parent": "bell-bold"}}, "width": 24, "height": 24,
                   "suffixes": {"": "Line", "bold": "Bold"}}  # fmt: skip
        (tmp_path / "json" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "collections.json").write_text(json.dumps(index))
    return tmp_path


def test_what_is_read(package):
    (icons,) = read_sets(package)
    assert (icons.name, icons.licence, icons.styles) == ("good", "MIT", ("bold",))
    found = {icon.name: icon for icon in read_icons(package, "good")}
    assert found.keys() == {"acme", "bell-bold"} and found["bell-bold"].size == (12, 24)
    assert "acme" in trademarks(package)
    with pytest.raises(FileNotFoundError, match="collections.json is missing"):
        read_sets(package / "json")


def test_rendering_keeps_proportions(package):
    pytest.importorskip("resvg_py")
    icons = {icon.name: icon for icon in read_icons(package, "good")}
    square, half = (render(icons[name], False) for name in ("acme", "bell-bold"))
    assert square.shape == (64, 64) and square.max() == 255 and square[32, 2] == 0
    assert half[:, :16].max() == half[:, 48:].max() == 0 and half[:, 17:47].max() == 255
    assert render(icons["acme"], True).shape == (64, 64, 4)


def test_hashes_do_not_mind_place_size_and_weight_but_mind_shape():
    page = np.zeros((64, 64), np.uint8)
    page[8:40, 10:20] = page[30:40, 10:50] = 255  # an L
    moved, thin, other = np.zeros_like(page), page.copy(), page[::-1].copy()
    moved[20:52, 12:52] = page[8:40, 10:50]
    thin[8:30, 19] = 0
    codes = np.array([perceptual_hash(p) for p in (page, moved, thin, other)], np.uint64)
    assert codes[0] == codes[1] and distinct(codes.tolist()) == [0, 3]
    assert copies_of(codes[1:], codes[:1]).tolist() == [True, True, False]


def pictures(hand_count, known_count, name="bell", dataset="mini_source", start=0):
    """Pictures with random hashes: of hands of the benchmark in turn, and of one hand of pre-training."""
    rng = np.random.default_rng(len(name) + start)
    shown = sorted(HANDS["benchmark"])
    made = [(shown[i % len(shown)], f"{name}-{i}") for i in range(hand_count)]
    made += [("mdi", f"{name}-{i}") for i in range(known_count)]
    return [
        Picture(hand, icon, name, icon.replace("-", " "), int(rng.integers(2**63)), i, dataset)
        for i, (hand, icon) in enumerate(made)
    ]


def test_choice_of_pictures():
    found = pictures(40, 30)
    copy = found[0]
    found.append(Picture("mdi", "copy", "clapper", "clapper", copy.hash ^ 0b101, 0))
    found += pictures(40, 3, "flask", start=1)  # too few are left for pre-training
    found += pictures(12, 30, "fish", "mini_animals", start=2)
    chosen, known = choose(found)
    counts = Counter((p.name, p.used) for p in chosen)
    assert {used: counts["bell", f"mini_source/{used}"] for used in FULL} == FULL
    assert not any(p.name == "flask" for p in chosen)
    assert counts["fish", "mini_animals/test"] >= 6 and counts["fish", "mini_animals/train"] >= 3
    assert all(p.hand not in HELD_OUT for p in known) and all(p.hand in HELD_OUT for p in chosen)
    codes = np.array([p.hash for p in chosen], np.uint64)
    assert not copies_of(np.array([p.hash for p in known], np.uint64), codes).any()
    assert ("copy" in {p.icon for p in known}) == (copy.icon not in {p.icon for p in chosen})
    assert choose(found) == (chosen, known)


def test_finishes_of_one_drawing_stay_together():
    base = pictures(16, 0, "fish", "mini_animals")
    finishes = [Picture(p.hand, f"{p.icon}-bold", p.name, p.said, p.hash ^ (0x5555 << 20), 0, p.dataset) for p in base]
    sizes = {"train": 4, "val": 1, "test": 6}
    parts = split_class(base + finishes, sizes)
    assert all(len(parts[split]) >= size for split, size in sizes.items())
    drawings = [key for part in parts.values() for key in {(p.hand, p.said) for p in part}]
    assert len(set(drawings)) == len(drawings)
    assert split_class(base[:5], sizes) is None


def test_sheets_notice_and_packs(tmp_path):
    rendered, world, cache = tmp_path / "rendered", tmp_path / "world", tmp_path / "cache"
    for folder in (rendered, world):
        folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {"ph": rng.integers(1, 256, (3, 64, 64), dtype=np.uint8),
              "noto": rng.integers(1, 256, (2, 64, 64, 4), dtype=np.uint8)}  # fmt: skip
    for hand, array in pixels.items():
        np.save(rendered / f"{hand}.npy", array)
    sets = [IconSet("noto", "Noto", "G", "Apache-2.0", "", True, ()), IconSet("ph", "Ph", "P", "MIT", "u", False, ())]
    chosen = [Picture("ph", "cat-1", "cat", "cat", 5, 2, "mini_animals", "mini_animals/test"),
              Picture("noto", "cat", "cat", "cat", 9, 1, "mini_animals", "mini_animals/train")]  # fmt: skip
    entries = write_benchmark(chosen, sets, rendered, world)
    assert [(e.hand, e.split, e.licence, e.sheet) for e in entries] == [
        ("noto", "train", "Apache-2.0", "colours"), ("ph", "test", "MIT", "masks")
    ]  # fmt: skip
    assert np.array_equal(read_picture(entries[0], world), pixels["noto"][1])
    assert np.array_equal(read_picture(entries[1], world), pixels["ph"][2])
    text = notice(sets, Counter(noto=1), Counter(ph=3), "1.0")
    assert "| `noto` | Noto | G | [Apache-2.0](licences/Apache-2.0.txt) | 1 |" in text and "[P](u)" in text
    known = [Picture("ph", f"cat-{i}", "cat", "kitten", i * 1000003, i) for i in range(3)]
    known += [Picture("noto", f"cat-{i}", "cat", "cat", i * 7000003 + 1, i) for i in range(2)]
    assert write_pack(known, rendered, frozenset({"noto"}), cache) == 5
    pack = read_pack(cache)
    assert pack.names == ["cat"] and pack.said == ["cat", "kitten"] and pack.counts.tolist() == [5]
    assert np.array_equal(pack.masks, pixels["ph"]) and np.array_equal(pack.colours, pixels["noto"])
    rows = [("ph", "cat", "0" * 16)]
    write_pretraining(rows, world / "pretraining.csv.gz")
    first = (world / "pretraining.csv.gz").read_bytes()
    write_pretraining(rows, world / "pretraining.csv.gz")
    assert read_pretraining(world) == rows and first == (world / "pretraining.csv.gz").read_bytes()
