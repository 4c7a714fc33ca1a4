"""A run for the tests of what is made from runs."""

import pytest

from tests.reference.methods import train_on_four


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """ALIGN, trained on 0.png and 1.png and tested on 2.png and 3.png, which are beside the run's folder."""
    folder = tmp_path_factory.mktemp("run")
    train_on_four("ALIGN", folder).train()
    return folder / "out"
