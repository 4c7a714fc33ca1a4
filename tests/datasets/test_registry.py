"""Registered classes: YAML files and templates name them; a mini set is written, reduced and refused as told."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from dassl.data.datasets import DATASET_REGISTRY

from datasets import CATALOG, CUSTOM_DATASETS, MINI_DATASETS
from datasets.__main__ import find
from datasets.mini import suite
from datasets.mini.files import ensure
from datasets.mini.suite import read_suite
from datasets.registry import DescribedDataset, Description
from prompting.clip.templates import TEMPLATES, template_for
from tests.reference.layouts import LAYOUTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"
SMALL = read_suite()["mini_plants"]
ABOUT = Description("MiniPlants", "mini_plants", "split_mini_plants.json", prepare=partial(ensure, SMALL))
CLASSES = len(SMALL.classes())


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few images a class."""
    monkeypatch.setattr(suite, "IMAGES", {"train": 3, "val": 2, "test": 1})


def made_of(about):
    return type("Made", (DescribedDataset,), {"description": about})


def test_every_registered_set_has_a_yaml_file_of_its_name():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS.glob("*.yaml")}
    for stem, content in found.items():
        (made,) = find(stem)
        assert content == {"DATASET": {"NAME": made.__name__}} and DATASET_REGISTRY.get(made.__name__) is made
    names = {content["DATASET"]["NAME"] for content in found.values()}
    assert names == {*CATALOG, *CUSTOM_DATASETS, *MINI_DATASETS} and set(CATALOG) == set(LAYOUTS)
    assert set(MINI_DATASETS) == {mini.name for mini in read_suite().values()}
    for mini in read_suite().values():
        assert mini.template == template_for(mini.name)
    assert set(TEMPLATES) <= set(DATASET_REGISTRY.registered_names())


def test_a_mini_set_is_written_where_it_is_missing(tmp_path, make):
    made = make(made_of(ABOUT), tmp_path)
    assert (len(made.train_x), len(made.val), len(made.test), made.num_classes) == (
        3 * CLASSES,
        2 * CLASSES,
        CLASSES,
        CLASSES,
    )
    assert made.classnames == SMALL.classes()
    assert made.dataset_dir == str(tmp_path / "mini_plants")


def test_a_variant_is_its_test_list(tmp_path, make):
    about = replace(ABOUT, prepare=partial(ensure, replace(SMALL, role="shift")), test_only=True)
    made = make(made_of(about), tmp_path, NUM_SHOTS=1, SUBSAMPLE_CLASSES="new")
    assert made.val is None and made.num_classes == CLASSES
    assert [d.impath for d in made.train_x] == [d.impath for d in made.test] and len(made.test) == CLASSES
    assert not (tmp_path / "mini_plants" / "split_fewshot").exists()


def test_bad_input_is_one_clear_line(tmp_path, make):
    drawn, real = made_of(ABOUT), made_of(replace(ABOUT, prepare=None))
    for made, root, half, words in (
        (real, "", "all", "DATASET.ROOT is empty"),
        (real, tmp_path / "nowhere", "all", "there is no folder .*nowhere"),
        (drawn, tmp_path / "no" / "where", "all", "there is no folder .*where"),
        (real, tmp_path, "all", "no folder .*mini_plants; DATASET.ROOT is"),
        (drawn, tmp_path, "Base", "SUBSAMPLE_CLASSES is 'Base'"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            make(made, root, SUBSAMPLE_CLASSES=half)
    assert not list(tmp_path.iterdir())  # refused before anything was drawn
    (tmp_path / "mini_plants").mkdir()
    with pytest.raises(FileNotFoundError, match="split file not found"):
        make(real, tmp_path)
    (tmp_path / "mini_plants").rmdir()
    make(drawn, tmp_path / "new")  # a set that is written where it is missing makes its root, but no parents of it
    make(drawn, tmp_path)
    path = tmp_path / "mini_plants" / "split_mini_plants.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps({part: [row for row in rows if row[1] == 0] for part, rows in split.items()}))
    with pytest.raises(ValueError, match="leaves train empty"):
        make(real, tmp_path, SUBSAMPLE_CLASSES="new")
