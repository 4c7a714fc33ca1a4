"""What is read off a model, and which towers are refused."""

import open_clip
import pytest
import torch
from torch import nn

from prompting.clip import ClipShape, TextEncoder, VisionEncoder, input_size

VISION = {"layers": 2, "width": 64, "patch_size": 4, "image_size": [8, 12]}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("vit", ClipShape("vit", 128, 64, 24, (12, 12), (3, 3), 20, 3, 3)),
        ("resnet", ClipShape("resnet", 256, 64, 24, (64, 64), (2, 2), 20, 4, 2)),
    ],
)
def test_shapes(kind, expected, request):
    model = request.getfixturevalue(kind)
    assert ClipShape.from_model(model) == expected
    assert input_size(model) == expected.image_size


def test_custom_text_and_oblong_images():
    model = open_clip.CustomTextCLIP(32, VISION, TEXT)
    assert ClipShape.from_model(model) == ClipShape("vit", 64, 64, 32, (8, 12), (2, 3), 16, 2, 1)
    assert VisionEncoder(model)(torch.zeros(1, 3, 8, 12), return_tokens=True).tokens.shape == (1, 1, 6, 32)


def test_vit_h():
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    shape = ClipShape.from_model(model)
    assert shape == ClipShape("vit", 1280, 1024, 1024, (224, 224), (16, 16), 77, 32, 24)
    prompts = torch.zeros(2, 3, 1280, device="meta")
    seen = VisionEncoder(model)(torch.zeros(1, 3, 224, 224, device="meta"), prompts, [prompts], return_tokens=True)
    assert seen.prompt.shape == (1, 2, 1024) and seen.tokens.shape == (1, 2, 256 + 3, 1024)


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({"pool_type": "avg"}, {}, "pooled by 'avg'"),
        ({"attentional_pool": True}, {}, "pooled by 'attention'"),
        ({}, {"no_causal_mask": True}, "causal text tower"),
        ({}, {"embed_cls": True}, "without a class token"),
        ({}, {"pool_type": "last"}, "pooled by 'last'"),
    ],
)
def test_towers_that_cannot_be_prompted(vision, text, message):
    model = open_clip.CustomTextCLIP(32, {**VISION, **vision}, {**TEXT, **text})
    with pytest.raises(ValueError, match=message):
        (VisionEncoder if vision else TextEncoder)(model)


def test_foreign_towers_are_named():
    model = open_clip.CustomTextCLIP(32, VISION, TEXT)
    model.visual, model.text = nn.Linear(1, 1), nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="Linear is another vision tower"):
        VisionEncoder(model)
    with pytest.raises(ValueError, match="Conv2d is another text tower"):
        TextEncoder(model)
