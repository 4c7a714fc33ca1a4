"""The mini sets: images fixed by their number, files in CoOp's layout, sheets read right."""

import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from datasets.mini import __main__ as command
from datasets.mini import suite as sets
from datasets.mini.files import ensure, is_complete
from datasets.mini.medium import TEXTURES, Medium, compose, pattern
from datasets.mini.pack import Entry, read_manifest, read_picture, write_manifest, write_sheet
from datasets.mini.suite import SPLITS, image, read_suite


@pytest.fixture
def few(monkeypatch):
    """Few images a class, so that a whole set is written in a second."""
    monkeypatch.setattr(sets, "IMAGES", {"train": 2, "val": 1, "test": 1})
    return read_suite()


def test_the_suite_has_a_source_four_shifts_and_ten_targets():
    suite = read_suite()
    roles = [dataset.role for dataset in suite.values()]
    assert [roles.count(role) for role in sets.ROLES] == [1, 4, 10]
    source = set(suite["mini_source"].classes())
    for dataset in suite.values():
        classes = set(dataset.classes())
        assert len(classes) >= 10
        assert classes <= source if dataset.role == "shift" else not (classes & source) or dataset.role == "source"


def test_images_are_fixed_by_their_number():
    suite = read_suite()
    for folder in ("mini_source", "mini_rendition", "mini_digits"):
        dataset = suite[folder]
        first = image(dataset, "test", 1, 0)
        assert first.shape == (64, 64, 3) and first.dtype == np.uint8 and first.std() > 3
        assert np.array_equal(first, image(dataset, "test", 1, 0))
        assert not np.array_equal(first, image(dataset, "test", 1, 1))


@pytest.mark.parametrize("folder", ["mini_plants", "mini_pixel"])
def test_files_are_in_coops_layout(few, tmp_path, folder):
    dataset = few[folder]
    assert ensure(dataset, tmp_path) and not ensure(dataset, tmp_path)
    place = tmp_path / folder
    split = json.loads((place / dataset.split_file).read_text())
    classes = dataset.classes()
    paths = []
    for name in SPLITS:
        for path, label, classname in split[name]:
            assert classes[label] == classname
            assert Image.open(place / "images" / path).size == (64, 64)
            paths.append(path)
    assert sorted({label for _, label, _ in split["test"]}) == list(range(len(classes)))
    if dataset.test_only:
        assert split["train"] == split["test"] and not split["val"]
    else:
        assert len(paths) == len(set(paths)) == 4 * len(classes)
    assert is_complete(dataset, place) and not is_complete(replace(dataset, template="{}"), place)


def test_what_is_not_ours_is_left_alone(few, tmp_path):
    (tmp_path / "mini_pixel").mkdir()
    (tmp_path / "mini_pixel" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="in the way"):
        ensure(few["mini_pixel"], tmp_path)


def test_what_killed_processes_left_is_removed(few, tmp_path):
    names = (".mini_pixel.7.part", ".mini_pixel.8.old", ".mini_pixel.9.part", ".mini_pixel")
    left = [tmp_path / name for name in names]
    for folder in left:
        (folder / "images").mkdir(parents=True)
        os.utime(folder, (time.time() - 7200 * (folder != left[2]),) * 2)
    ensure(few["mini_pixel"], tmp_path)
    assert [folder.exists() for folder in left] == [False, False, True, True]  # the third may be in progress


def test_sheets_give_back_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    for sheet, shape in (("masks", (40, 64, 64)), ("colours", (33, 64, 64, 4))):
        tiles = rng.integers(0, 256, shape, dtype=np.uint8)
        write_sheet(tiles, tmp_path / f"mini_x.{sheet}.png")
        for tile in (0, 31, 32):
            entry = Entry("mini_x", "test", "thing", "set", "thing-1", "MIT", "0" * 16, sheet, tile)
            assert np.array_equal(read_picture(entry, tmp_path), tiles[tile])
    write_manifest([entry], tmp_path / "manifest.csv")
    assert read_manifest(tmp_path) == (entry,)


def test_patterns_and_media():
    rng = np.random.default_rng(0)
    for kind in TEXTURES:
        field = pattern(kind, 64, rng)
        assert field.shape == (64, 64) and np.abs(field).max() < 4
    with pytest.raises(ValueError, match="no pattern 'tartan'"):
        pattern("tartan", 64, rng)
    tile = np.zeros((64, 64), np.uint8)
    tile[16:48, 16:48] = 255
    still = Medium(paper=((255,) * 3,) * 2, ink=((0,) * 3,) * 2, sizes=(1, 1), turn=0, shift=0)
    assert np.array_equal(compose(tile, still, rng), np.repeat((255 - tile)[..., None], 3, 2))
    thick = (compose(tile, replace(still, line=1), rng) == 0).sum()
    thin = (compose(tile, replace(still, line=-1), rng) == 0).sum()
    assert thin < 3 * 32 * 32 < thick


def test_command_line(few, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "read_suite", lambda: few)
    command.main(["--root", str(tmp_path), "--sets", "mini_plants"])
    assert (tmp_path / "mini_plants" / "split_mini_plants.json").is_file()
    assert command.main(["--root", str(tmp_path), "--sets", "mini_plant"]) == 1
    assert "did you mean 'mini_plants'?" in capsys.readouterr().err
    command.main(["--sheet", str(tmp_path / "sheet.png")])
    assert Image.open(tmp_path / "sheet.png").size == (110 + 16 * 64, 15 * 64)
