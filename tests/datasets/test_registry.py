"""Registered classes: YAML files and templates name them; a mini set is written where it is missing."""

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
from datasets.registry import DescribedDataset, Description
from prompting.clip.templates import TEMPLATES, template_for
from tests.reference.layouts import LAYOUTS

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"
SMALL = suite.read_suite()["mini_plants"]
ABOUT = Description("MiniPlants", "mini_plants", "split_mini_plants.json", prepare=partial(ensure, SMALL))


def made_of(about):
    return type("Made", (DescribedDataset,), {"description": about})


def test_every_registered_set_has_a_yaml_file_of_its_name():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS.glob("*.yaml")}
    for stem, content in found.items():
        (made,) = find(stem)
        assert content == {"DATASET": {"NAME": made.__name__}} and DATASET_REGISTRY.get(made.__name__) is made
    names = {content["DATASET"]["NAME"] for content in found.values()}
    assert names == {*CATALOG, *CUSTOM_DATASETS, *MINI_DATASETS} and set(CATALOG) == set(LAYOUTS)
    assert set(MINI_DATASETS) == {mini.name for mini in suite.read_suite().values()}
    for mini in suite.read_suite().values():
        assert mini.template == template_for(mini.name)
    assert set(TEMPLATES) <= set(DATASET_REGISTRY.registered_names())


def test_a_mini_set_is_written_where_it_is_missing(tmp_path, make, monkeypatch):
    """It makes its root, but no parents of it."""
    monkeypatch.setattr(suite, "IMAGES", {"train": 3, "val": 2, "test": 1})
    made = make(made_of(ABOUT), tmp_path / "new")
    assert [len(rows) / made.num_classes for rows in (made.train_x, made.val, made.test)] == [3, 2, 1]
    assert made.classnames == SMALL.classes()
    assert made.dataset_dir == str(tmp_path / "new" / "mini_plants")


@pytest.mark.parametrize(
    ("prepare", "root", "half", "words"),
    [
        (None, "nowhere", "all", "there is no folder .*nowhere"),
        (None, "", "all", "no folder .*mini_plants; DATASET.ROOT is"),
        (ABOUT.prepare, "no/where", "all", "there is no folder .*where"),
        (ABOUT.prepare, "", "Base", "SUBSAMPLE_CLASSES is 'Base'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(tmp_path, make, prepare, root, half, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make(made_of(replace(ABOUT, prepare=prepare)), tmp_path / root, SUBSAMPLE_CLASSES=half)
    assert not list(tmp_path.iterdir())


def test_an_empty_root_is_refused(make):
    with pytest.raises(ValueError, match="DATASET.ROOT is empty; give the folder of the data sets with --root FOLDER"):
        make("EuroSAT", "")
