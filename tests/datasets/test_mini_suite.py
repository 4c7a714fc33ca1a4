"""The mini sets on disk."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.mini import suite
from datasets.mini.suite import DIGIT_SIZE, SPLITS, SUITE, MiniSet, ensure, picture, source_classes
from prompting.clip.templates import template_for

SMALL = replace(SUITE["mini_source"], name="MiniSmall", classes=source_classes()[:5], sizes=(3, 1, 2))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_layout_and_split_file(tmp_path):
    assert ensure(SMALL, tmp_path)
    place = tmp_path / "mini_small"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mini_small"]  # nothing left of the drawing
    split = json.loads((place / "split_mini_small.json").read_text())
    assert list(split) == ["train", "val", "test"]
    assert [len(split[part]) for part in SPLITS] == [15, 5, 10]
    seen = set()
    for part in SPLITS:
        for path, label, name in split[part]:
            assert name == SMALL.classes[label][0]
            assert path.split("/")[0] == name.replace(" ", "_")
            with Image.open(place / "images" / path) as image:
                assert image.format == "PNG" and image.size == (64, 64) and image.mode == "RGB"
            seen.add(path)
    assert len(seen) == 30 == len(list((place / "images").rglob("*.png")))
    path, label, _ = split["test"][3]
    assert (np.asarray(Image.open(place / "images" / path)) == np.asarray(picture(SMALL, "test", label, 1))).all()


def test_a_complete_set_is_left_alone_and_a_damaged_or_older_one_is_drawn_again(tmp_path):
    ensure(SMALL, tmp_path)
    first = snapshot(tmp_path)
    assert not ensure(SMALL, tmp_path)
    assert snapshot(tmp_path) == first
    os.remove(next((tmp_path / "mini_small" / "images").rglob("*.png")))
    assert ensure(SMALL, tmp_path)
    assert {k: v[1] for k, v in snapshot(tmp_path).items()} == {k: v[1] for k, v in first.items()}
    few = tmp_path / "mini_small" / "split_fewshot" / "shot_1-seed_1.json"
    few.parent.mkdir()
    few.write_text("{}")
    harder = replace(SMALL, look=replace(SMALL.look, grain=0.2))
    assert harder.fingerprint != SMALL.fingerprint
    assert ensure(harder, tmp_path)
    assert not few.exists()  # a draw from the older pictures
    assert snapshot(tmp_path)["mini_small/mini.json"] != first["mini_small/mini.json"]


def test_of_two_runs_at_the_same_time_the_second_takes_what_is_there(tmp_path, monkeypatch):
    write, there = suite._write, []

    def slow(mini, place):
        write(mini, place)
        shutil.copytree(place, tmp_path / mini.folder)  # meanwhile
        there.append((tmp_path / mini.folder).stat().st_ino)

    monkeypatch.setattr(suite, "_write", slow)
    ensure(SMALL, tmp_path)
    assert there == [(tmp_path / SMALL.folder).stat().st_ino]
    assert [path.name for path in tmp_path.iterdir()] == [SMALL.folder] and not ensure(SMALL, tmp_path)


def test_what_is_not_ours_is_never_touched(tmp_path):
    place = tmp_path / "mini_small"
    place.mkdir()
    (place / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not drawn by this program"):
        ensure(SMALL, tmp_path)
    os.remove(place / "thesis.txt")
    place.rmdir()
    ensure(SMALL, tmp_path)
    (place / "images" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        ensure(replace(SMALL, sizes=(1, 1, 1)), tmp_path)
    assert (place / "images" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("mini", SUITE.values(), ids=list(SUITE))
def test_sets_are_well_formed(mini: MiniSet):
    names = [name for name, _ in mini.classes]
    assert len(set(names)) == len(names) >= 10
    assert template_for(mini.name).count("{}") == 1
    assert mini.sizes[2] > 0 and (mini.test_only or min(mini.sizes) > 0)
    assert mini.test_only or mini.sizes[0] >= 16  # 16 shots
    first, last = picture(mini, "test", 0, 0), picture(mini, "test", len(names) - 1, mini.sizes[2] - 1)
    assert first.size == (64, 64) and np.asarray(first).std() > 5 and first.tobytes() != last.tobytes()
    if not mini.test_only:
        assert picture(mini, "train", 0, 0).tobytes() != first.tobytes()


def test_names_of_folders():
    assert list(SUITE)[:3] == ["mini_source", "mini_source_v2", "mini_sketch"]
    assert SUITE["mini_source_v2"].split_file == "split_mini_source_v2.json"


def test_source_classes_share_textures_and_shapes_between_base_and_new():
    names = [name.split() for name, _ in source_classes()]
    assert len(names) == 40
    for part in (names[:20], names[20:]):
        assert len({texture for texture, _ in part}) == 8
        assert len({shape for _, shape in part}) == 10


def test_variants_have_names_of_the_source():
    names = {name for name, _ in SUITE["mini_source"].classes}
    variants = [mini for mini in SUITE.values() if mini.test_only]
    assert len(variants) == 4
    for mini in variants:
        assert {name for name, _ in mini.classes} <= names
    drawn = [picture(replace(SUITE[k], look=None or SUITE["mini_source"].look), "test", 0, 0).tobytes()
             for k in ("mini_source", "mini_source_v2")]  # fmt: skip
    assert drawn[0] != drawn[1]  # a new draw even in the source's look


def test_digits_are_scikit_learns_and_each_is_used_once():
    from sklearn.datasets import load_digits

    mini = SUITE["mini_digits"]
    assert sum(mini.sizes) <= min(np.bincount(load_digits().target))
    drawn = {picture(mini, part, 3, n).tobytes() for part, size in zip(SPLITS, mini.sizes) for n in range(size)}
    assert len(drawn) == sum(mini.sizes)
    small = load_digits().images[np.flatnonzero(load_digits().target == 3)[0]]
    edge = (64 - DIGIT_SIZE) // 2
    ink = 255 - np.asarray(picture(mini, "train", 3, 0).convert("L"))[edge:-edge, edge:-edge]
    big = np.asarray(Image.fromarray(ink).resize((8, 8), Image.Resampling.BOX), dtype=float)
    assert np.corrcoef(small.ravel(), big.ravel())[0, 1] > 0.95


def test_command_line_names_the_nearest_set(tmp_path):
    command = [sys.executable, "-m", "datasets.mini", "--root", str(tmp_path), "--sets", "mini_sorce"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean mini_source?" in done.stderr
    assert not list(tmp_path.iterdir())
