"""Fixtures of the data-set tests: an empty home folder, and classes built from a config in a few words."""

import random

import pytest
from dassl.data.datasets import DATASET_REGISTRY

from tests.reference.configs import default_cfg


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A new home folder, without ALIGN_CACHE."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def make():
    """Return a function that builds a data set, by name or class, from KEY VALUE words of ``cfg.DATASET``."""

    def make(name, root, seed=1, **keys):
        cfg = default_cfg("SEED", seed, "DATASET.ROOT", str(root))
        cfg.DATASET.update(keys)
        random.seed(seed)
        return (DATASET_REGISTRY.get(name) if isinstance(name, str) else name)(cfg)

    return make
