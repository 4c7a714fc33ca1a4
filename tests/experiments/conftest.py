"""Fixtures of the experiments' tests."""

import sys

import pytest
import torch

from tests.reference.clip_states import vit_state


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Config words for a run of a second: a tiny random CLIP for 32 x 32 images, one epoch of one step."""
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(vit_state(patch=16, grid=2, vision_layers=1, text_layers=1), path)
    words = ("MODEL.BACKBONE.NAME", str(path), "INPUT.SIZE", "(32, 32)", "DATASET.NUM_SHOTS", "1")
    return *words, "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"


@pytest.fixture
def call_main(monkeypatch, capfd):
    """Return a function that calls a module's main with words: (exit code, stdout, stderr)."""

    def call(module, *words):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, words)])
        code = module.main()
        return code, *capfd.readouterr()

    return call
