"""ImageNet's folders: flat ones, and the listing that is kept."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from datasets.readers import imagenet
from datasets.scan import kept_scan, scan
from tests.reference.layouts import LAYOUTS, WNIDS, put


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    LAYOUTS["ImageNet"][0](tmp_path)
    return tmp_path / "imagenet"


def read(folder):
    return imagenet(folder, folder / "images")


def test_flat_val_says_what_to_do(folder, tmp_path):
    val = folder / "images" / "val"
    shutil.rmtree(val)
    put(val, ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"])
    with pytest.raises(ValueError, match=r"val is flat: its 2 images .* move each to val/<wnid>/ .*devkit"):
        read(folder)
    assert not (tmp_path / "cache").exists()  # nothing is kept of it
    shutil.rmtree(val)
    put(val, [f"{wnid}/x.JPEG" for wnid in WNIDS])
    assert len(read(folder).test) == 3


def test_files_are_listed_sorted(folder):
    put(folder / "images" / "train", ["n01440764/a.JPEG", "n01440764/Z.JPEG"])
    names = [row[0] for row in read(folder).train if row[1] == 0]
    assert names == sorted(names) and names[0] == "train/n01440764/Z.JPEG"


def test_a_listing_is_kept_and_read_until_a_folder_changes(folder, tmp_path, monkeypatch):
    first = read(folder)
    (kept,) = (tmp_path / "cache").rglob("listing_train.json")
    assert sorted(p.name for p in kept.parent.iterdir()) == ["listing_train.json", "listing_val.json"]
    assert "images" not in str(json.loads(kept.read_text())["classes"])  # names only, no absolute paths
    with monkeypatch.context() as patch:
        patch.setattr("datasets.scan.scan", lambda *_: pytest.fail("listed again"))
        assert read(folder) == first
    wnid = folder / "images" / "train" / "n01440764"
    put(wnid, ["new.JPEG"])
    os.utime(wnid, ns=(1, 1))  # however coarse the clock of the file system
    assert len(read(folder).train) == len(first.train) + 1
    kept.write_text("{")
    assert len(read(folder).train) == len(first.train) + 1


def test_incomplete_listings_are_refused_and_not_kept(folder, tmp_path):
    (folder / "images" / "train" / "n09999999").mkdir()
    with pytest.raises(ValueError, match="n09999999 holds no image"):
        read(folder)
    (folder / "images" / "train" / "n09999999").rmdir()
    shutil.rmtree(folder / "images" / "val" / "n01443537")
    assert not list((tmp_path / "cache").rglob("listing_train.json"))
    with pytest.raises(ValueError, match="1 classes are in one of train and val only, as n01443537 in train"):
        read(folder)


def test_a_folder_that_changes_meanwhile_is_not_kept(folder, tmp_path, monkeypatch):
    def changing(place):
        put(place, ["n01440764/late.JPEG"])
        os.utime(place / "n01440764", ns=(1, 1))
        return scan(place)

    monkeypatch.setattr("datasets.scan.scan", changing)
    cache = tmp_path / "cache" / "x.json"
    assert "late.JPEG" in kept_scan(folder / "images" / "val", cache)["n01440764"]
    assert not cache.exists()


def test_an_unwritable_cache_is_no_error(folder, tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    assert len(read(folder).train) == 18
