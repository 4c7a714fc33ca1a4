"""ImageNet: a flat val folder, and the cached listing."""

from __future__ import annotations

import os
import shutil

import pytest

from datasets.folders import list_classes, list_classes_cached
from datasets.readers import imagenet
from tests.reference.layouts import LAYOUTS, WNIDS, put


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    LAYOUTS["ImageNet"][0](tmp_path)
    return tmp_path / "imagenet"


def read(folder):
    return imagenet(folder, folder / "images")


def test_a_flat_val_folder_is_named_and_not_cached(folder, tmp_path):
    val = folder / "images" / "val"
    shutil.rmtree(val)
    put(val, ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"])
    with pytest.raises(ValueError, match=r"val is flat: its 2 images .* move each to val/<wnid>/ .*devkit"):
        read(folder)
    assert not (tmp_path / "cache").exists()
    shutil.rmtree(val)
    put(val, [f"{wnid}/x.JPEG" for wnid in WNIDS])
    assert len(read(folder).test) == 3


def test_a_listing_is_sorted_and_cached_until_a_folder_changes(folder, tmp_path, monkeypatch):
    put(folder / "images" / "train", ["n01440764/a.JPEG", "n01440764/Z.JPEG"])
    first = read(folder)
    names = [row.path for row in first.train if row.label == 0]
    assert names == sorted(names) and names[0] == "train/n01440764/Z.JPEG"
    (cached,) = (tmp_path / "cache").rglob("listing_train.json")
    with monkeypatch.context() as patch:
        patch.setattr("datasets.folders.list_classes", lambda *_: pytest.fail("listed again"))
        assert read(folder) == first
    wnid = folder / "images" / "train" / "n01440764"
    put(wnid, ["new.JPEG"])
    os.utime(wnid, ns=(1, 1))  # however coarse the clock of the file system
    assert len(read(folder).train) == len(first.train) + 1
    cached.write_text("{")
    assert len(read(folder).train) == len(first.train) + 1


def test_incomplete_or_changing_folders_are_not_cached(folder, tmp_path, monkeypatch):
    (folder / "images" / "train" / "n09999999").mkdir()
    with pytest.raises(ValueError, match="n09999999 holds no image"):
        read(folder)
    assert not list((tmp_path / "cache").rglob("listing_train.json"))
    (folder / "images" / "train" / "n09999999").rmdir()
    shutil.rmtree(folder / "images" / "val" / "n01443537")
    with pytest.raises(ValueError, match="1 classes are in one of train and val only, as n01443537 in train"):
        read(folder)

    def changing(place):
        put(place, ["n01440764/late.JPEG"])
        os.utime(place / "n01440764", ns=(1, 1))
        return list_classes(place)

    monkeypatch.setattr("datasets.folders.list_classes", changing)
    cache = tmp_path / "cache" / "x.json"
    assert "late.JPEG" in list_classes_cached(folder / "images" / "val", cache)["n01440764"]
    assert not cache.exists()


def test_an_unwritable_cache_is_no_error(folder, tmp_path):
    (tmp_path / "cache").write_text("a file in place of the folder")
    assert len(read(folder).train) == 18
