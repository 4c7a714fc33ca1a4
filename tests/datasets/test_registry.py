"""Registered classes: YAML files and templates name them; a mini set is drawn, reduced and refused as told."""

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
from datasets.mini.picture_sets import read_suite
from datasets.mini.suite import SUITE, ensure
from datasets.registry import DescribedDataset, Description
from prompting.clip.templates import TEMPLATES, template_for
from tests.reference.layouts import LAYOUTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"
SMALL = replace(SUITE["mini_source"], name="MiniSmall", classes=SUITE["mini_source"].classes[:5], sizes=(6, 5, 2))
ABOUT = Description("MiniSmall", "mini_small", "split_mini_small.json", prepare=partial(ensure, SMALL))


def made_of(about):
    return type("Made", (DescribedDataset,), {"description": about})


def test_every_registered_set_has_a_yaml_file_of_its_name():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS.glob("*.yaml")}
    for stem, content in found.items():
        (made,) = find(stem)
        assert content == {"DATASET": {"NAME": made.__name__}} and DATASET_REGISTRY.get(made.__name__) is made
    names = {content["DATASET"]["NAME"] for content in found.values()}
    assert names == {*CATALOG, *CUSTOM_DATASETS, *MINI_DATASETS} and set(CATALOG) == set(LAYOUTS)
    assert set(MINI_DATASETS) == {mini.name for mini in (*SUITE.values(), *read_suite().values())}
    for mini in read_suite().values():
        assert mini.template == template_for(mini.name)
    assert set(TEMPLATES) <= set(DATASET_REGISTRY.registered_names())


def test_a_mini_set_is_drawn_where_it_is_missing(tmp_path, make):
    made = make(made_of(ABOUT), tmp_path)
    assert (len(made.train_x), len(made.val), len(made.test), made.num_classes) == (30, 25, 10, 5)
    assert made.classnames == [name for name, _ in SMALL.classes]
    assert made.dataset_dir == str(tmp_path / "mini_small")


def test_a_variant_is_its_test_list(tmp_path, make):
    mini = replace(SMALL, sizes=(0, 0, 2), test_only=True)
    about = replace(ABOUT, prepare=partial(ensure, mini), test_only=True)
    made = make(made_of(about), tmp_path, NUM_SHOTS=1, SUBSAMPLE_CLASSES="new")
    assert made.val is None and made.num_classes == 5
    assert [d.impath for d in made.train_x] == [d.impath for d in made.test] and len(made.test) == 10
    assert not (tmp_path / "mini_small" / "split_fewshot").exists()


def test_bad_input_is_one_clear_line(tmp_path, make):
    drawn, real = made_of(ABOUT), made_of(replace(ABOUT, prepare=None))
    for made, root, half, words in (
        (real, "", "all", "DATASET.ROOT is empty"),
        (real, tmp_path / "nowhere", "all", "there is no folder .*nowhere"),
        (drawn, tmp_path / "no" / "where", "all", "there is no folder .*where"),
        (real, tmp_path, "all", "no folder .*mini_small; DATASET.ROOT is"),
        (drawn, tmp_path, "Base", "SUBSAMPLE_CLASSES is 'Base'"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            make(made, root, SUBSAMPLE_CLASSES=half)
    assert not list(tmp_path.iterdir())  # refused before anything was drawn
    (tmp_path / "mini_small").mkdir()
    with pytest.raises(FileNotFoundError, match="split file not found"):
        make(real, tmp_path)
    (tmp_path / "mini_small").rmdir()
    make(drawn, tmp_path / "new")  # a set that is written where it is missing makes its root, but no parents of it
    make(drawn, tmp_path)
    path = tmp_path / "mini_small" / "split_mini_small.json"
    split = json.loads(path.read_text())
    path.write_text(json.dumps({part: [row for row in rows if row[1] == 0] for part, rows in split.items()}))
    with pytest.raises(ValueError, match="leaves train empty"):
        make(real, tmp_path, SUBSAMPLE_CLASSES="new")
