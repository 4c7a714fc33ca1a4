"""The frozen CLIP's features and the distances to them, in plain loops."""

import math

import pytest
import torch

from prompting import teacher
from prompting.clip import TextEncoder, VisionEncoder
from prompting.heads import cosine_logits
from tests.reference.methods import draw_images, tiny_vit

STREAM = torch.Generator().manual_seed(0)
A, B = torch.randn(2, 3, 5, generator=STREAM).double()


def test_features_are_those_of_the_clip_and_take_no_gradient():
    clip, images = tiny_vit(), draw_images(tiny_vit())
    rows = [["a cat.", "a long dog."], ["one cat there.", "dog."]]
    text = teacher.text_features(TextEncoder(clip), rows, clip)
    image = teacher.image_features(VisionEncoder(clip), images)
    assert text.shape[:2] == (2, 2) and not text.requires_grad and not image.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(image, clip.encode_image(images), atol=1e-4, rtol=1e-4)
        for s, row in enumerate(rows):
            for k, sentence in enumerate(row):
                expected = teacher.text_features(TextEncoder(clip), [[sentence]], clip)[0, 0]
                torch.testing.assert_close(text[s, k], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="at least one sentence"):
        teacher.text_features(TextEncoder(clip), [], clip)


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def test_distances_by_hand():
    pairs = [(unit(a), unit(b)) for a, b in zip(A.tolist(), B.tolist())]
    cosines = [sum(x * y for x, y in zip(a, b)) for a, b in pairs]
    gaps = [x - y for a, b in pairs for x, y in zip(a, b)]
    assert teacher.cosine_distance(A, B).item() == pytest.approx(1 - sum(cosines) / 3, abs=1e-6)
    assert teacher.absolute_distance(A, B).item() == pytest.approx(sum(map(abs, gaps)) / 15, abs=1e-6)
    assert teacher.squared_distance(A, B).item() == pytest.approx(sum(gap * gap for gap in gaps) / 15, abs=1e-6)


def test_logits_are_computed_in_float32():
    image, text = torch.full((1, 4096), 30.0).half(), torch.full((1, 4096), 30.0).half()  # norms overflow float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = cosine_logits(image, text, 100.0)
    assert logits.dtype == torch.float32 and logits.item() == pytest.approx(100.0, abs=1e-3)
