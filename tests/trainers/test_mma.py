"""MMA: enlarged gradients, and the places of its adapters."""

import torch

from prompting.checkpoint import learned_state
from tests.reference.methods import build, draw_images, relearn, tiny_vit

SCALE = 0.05
WORDS = ("ADAPTER_START", 0, "ADAPTER_END", 3, "ADAPTER_SCALE", SCALE)


def gradients(*words):
    model = relearn(build("MultiModalAdapter", *WORDS, *words))
    loss, _ = model.training_loss(draw_images(tiny_vit()), torch.tensor([0, 2]))
    loss.backward()
    return loss, {name: tensor.grad for name, tensor in learned_state(model).items()}


def test_gradients_are_those_of_scale_one_after_the_input():
    """Those at the input, which come through the blocks, are the true ones: what flows on is not enlarged."""
    loss, released = gradients()
    expected, true = gradients("READING", "corrected")
    assert loss == expected and len(released) == 4 * (4 + 4 + 2)
    for name, gradient in released.items():
        factor = 1 if name.split(".")[2] == "0" else 1 / SCALE
        torch.testing.assert_close(gradient, factor * true[name], msg=name)


def test_adapters_as_wide_as_a_tower():
    model = build("MultiModalAdapter", "ADAPTER_DIM", tiny_vit().transformer.width)
    assert model(draw_images(tiny_vit())).shape == (2, 3)
