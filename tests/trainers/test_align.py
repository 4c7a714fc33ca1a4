"""ALIGN's model: gradients, and scores that do not depend on other images."""

import pytest
import torch

from prompting.checkpoint import learned_state
from trainers.align import ALIGN

NAMES = ["face", "golden retriever", "Boeing 737-800", "yin_yang"]


@pytest.fixture
def align(golden_clip, make_cfg):
    """Return a function that builds ALIGN from KEY, VALUE words of its node, seeded."""

    def build(*words, classnames=NAMES, clip=golden_clip):
        torch.manual_seed(0)
        small = ("TEXT_PROMPT_DEPTH", 2, "VISION_PROMPT_DEPTH", 2, "TEXT_PROMPT_NUMBER", 2, "VISION_PROMPT_NUMBER", 2)
        pairs = list(small + words)
        pairs[::2] = [f"TRAINER.ALIGN.{key}" for key in pairs[::2]]
        return ALIGN.build_clip(make_cfg(*pairs), classnames, clip).eval()

    return build


@pytest.fixture
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("coupling", ["projected", "independent"])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_logits_and_reach(align, images, coupling, reading):
    model = align("COUPLING", coupling, "READING", reading).train()
    logits = model(images)
    assert logits.shape == (3, 4) and logits.dtype == torch.float32
    logits[0, 0].backward()
    for name, tensor in learned_state(model).items():
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, name
    assert all(tensor.grad is None for tensor in model.clip.parameters())


def test_score_depends_on_its_own_image_and_class_only(align, images):
    """The `paper` reading: neither batch mates, nor chunking, nor the other classes change a score."""
    whole = align()(images)
    torch.testing.assert_close(align()(images[1:2]), whole[1:2], atol=1e-4, rtol=0)
    torch.testing.assert_close(align(classnames=NAMES[1:3])(images), whole[:, 1:3], atol=1e-4, rtol=0)
