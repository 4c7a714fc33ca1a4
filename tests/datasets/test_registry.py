"""Registered classes: YAML files and templates name them; a mini set is drawn where it is missing."""

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
    """It makes its root, but no parents of it."""
    made = make(made_of(ABOUT), tmp_path / "new")
    assert (len(made.train_x), len(made.val), len(made.test), made.num_classes) == (30, 25, 10, 5)
    assert made.classnames == [name for name, _ in SMALL.classes]
    assert made.dataset_dir == str(tmp_path / "new" / "mini_small")


@pytest.mark.parametrize(
    ("prepare", "root", "half", "words"),
    [
        (None, "nowhere", "all", "there is no folder .*nowhere"),
        (None, "", "all", "no folder .*mini_small; DATASET.ROOT is"),
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
