"""ALIGN's model: gradients, and scores that do not depend on other images."""

import pytest
import torch

from prompting.checkpoint import learned_state
from tests.reference.methods import NAMES, build, draw_images, tiny_vit


@pytest.mark.parametrize("coupling", ["projected", "independent"])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_one_logit_reaches_every_learned_tensor(coupling, reading):
    model = build("ALIGN", "COUPLING", coupling, "READING", reading).train()
    logits = model(draw_images(tiny_vit(), 3))
    assert logits.shape == (3, 3) and logits.dtype == torch.float32
    logits[0, 0].backward()
    for name, tensor in learned_state(model).items():
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, name
    assert all(tensor.grad is None for tensor in model.clip.parameters())


def test_score_depends_on_its_own_image_and_class_only():
    """The `paper` reading: neither batch mates, nor chunking, nor the other classes change a score."""
    images = draw_images(tiny_vit(), 3)
    whole = build("ALIGN").eval()(images)
    torch.testing.assert_close(build("ALIGN").eval()(images[1:2]), whole[1:2], atol=1e-4, rtol=0)
    torch.testing.assert_close(build("ALIGN", classnames=NAMES[1:]).eval()(images), whole[:, 1:], atol=1e-4, rtol=0)
