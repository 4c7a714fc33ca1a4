"""Cosine logits against a loop."""

import pytest
import torch

from prompting.heads import cosine_logits


@pytest.mark.parametrize("per_image", [False, True])
def test_loop(per_image):
    torch.manual_seed(0)
    image, text = torch.randn(3, 6), torch.randn(*((3,) if per_image else ()), 4, 6)
    logits = cosine_logits(image, text, 20.0)
    for b in range(3):
        for k in range(4):
            t = text[b, k] if per_image else text[k]
            cosine = (image[b] @ t) / (image[b].norm() * t.norm())
            assert logits[b, k].item() == pytest.approx(20 * cosine.item(), abs=1e-5)


def test_float32_inside():
    image, text = torch.full((1, 4096), 30.0).half(), torch.full((1, 4096), 30.0).half()  # norms overflow float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = cosine_logits(image, text, 100.0)
    assert logits.dtype == torch.float32 and logits.item() == pytest.approx(100.0, abs=1e-3)
