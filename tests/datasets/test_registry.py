"""Registered classes: from a config to lists of images."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY

import datasets
from datasets.mini.suite import SUITE, ensure
from datasets.registry import DescribedDataset, Description

SMALL = replace(SUITE["mini_source"], name="MiniSmall", classes=SUITE["mini_source"].classes[:5], sizes=(6, 5, 2))
ABOUT = Description("MiniSmall", "mini_small", "split_mini_small.json", prepare=partial(ensure, SMALL))


def make(about: Description, root, **options) -> DescribedDataset:
    cfg = get_cfg_default()
    cfg.SEED = 1
    cfg.DATASET.ROOT = str(root)
    cfg.DATASET.SUBSAMPLE_CLASSES = options.get("subsample", "all")
    cfg.DATASET.NUM_SHOTS = options.get("shots", -1)
    return type("Made", (DescribedDataset,), {"description": about})(cfg)


def test_importing_the_package_registers_every_mini_set():
    assert set(datasets.MINI_DATASETS) == {mini.name for mini in SUITE.values()}
    for name, made in datasets.MINI_DATASETS.items():
        assert DATASET_REGISTRY.get(name) is made and made.__name__ == name


def test_every_mini_set_has_its_yaml():
    folder = Path(__file__).resolve().parents[2] / "configs" / "datasets"
    found = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("mini_*.yaml")}
    assert found == {mini.folder: {"DATASET": {"NAME": mini.name}} for mini in SUITE.values()}


def test_a_mini_set_is_drawn_where_it_is_missing_and_read(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    made = make(ABOUT, tmp_path)
    assert (len(made.train_x), len(made.val), len(made.test), made.num_classes) == (30, 25, 10, 5)
    assert made.classnames == [name for name, _ in SMALL.classes]
    assert made.dataset_dir == str(tmp_path / "mini_small")


def test_base_and_new_share_one_few_shot_draw(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    random.seed(1)
    whole = make(ABOUT, tmp_path, shots=2)
    base = make(ABOUT, tmp_path, shots=2, subsample="base")
    new = make(ABOUT, tmp_path, shots=2, subsample="new")
    assert (len(whole.train_x), len(whole.val)) == (10, 10)
    assert (base.num_classes, new.num_classes) == (3, 2)
    halves = [d.impath for part in (base, new) for d in part.train_x]
    assert sorted(halves) == sorted(d.impath for d in whole.train_x)
    assert new.classnames == [name for name, _ in SMALL.classes[3:]]
    assert (tmp_path / "mini_small" / "split_fewshot" / "shot_2-seed_1.json").is_file()


def test_a_variant_is_its_test_list(tmp_path):
    mini = replace(SMALL, sizes=(0, 0, 2), test_only=True)
    about = replace(ABOUT, prepare=partial(ensure, mini), test_only=True)
    made = make(about, tmp_path, shots=1, subsample="new")
    assert made.val is None and made.num_classes == 5
    assert [d.impath for d in made.train_x] == [d.impath for d in made.test] and len(made.test) == 10
    assert not (tmp_path / "mini_small" / "split_fewshot").exists()


def test_bad_input_is_one_clear_line(tmp_path):
    real = replace(ABOUT, prepare=None)
    with pytest.raises(ValueError, match="DATASET.ROOT is empty"):
        make(real, "")
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        make(ABOUT, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no folder .*mini_small; DATASET.ROOT is"):
        make(real, tmp_path)
    with pytest.raises(ValueError, match="SUBSAMPLE_CLASSES is 'Base'"):
        make(ABOUT, tmp_path, subsample="Base")
    assert not list(tmp_path.iterdir())  # said before anything was drawn
    (tmp_path / "mini_small").mkdir()
    with pytest.raises(FileNotFoundError, match="split file not found"):
        make(real, tmp_path)


def test_one_class_has_no_new_half(tmp_path):
    make(ABOUT, tmp_path)
    path = tmp_path / "mini_small" / "split_mini_small.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps({part: [row for row in rows if row[1] == 0] for part, rows in split.items()}))
    with pytest.raises(ValueError, match="leaves train empty"):
        make(replace(ABOUT, prepare=None), tmp_path, subsample="new")
