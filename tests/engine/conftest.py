"""The tiny images, and configs for them."""

import pytest

from tests.reference.tiny import draw_images, tiny_cfg


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make_cfg(tiny_root, tmp_path):
    """Return a function that makes a config of the tiny set from KEY, VALUE words."""
    return lambda *words: tiny_cfg(tiny_root, tmp_path / "out", *words)
