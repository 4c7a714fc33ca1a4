"""MMRL: which logits are evaluated, by TASK and classes."""

import pytest
import torch

from prompting.heads import cosine_logits
from tests.reference.methods import METHODS, build, config, draw_images, relearn, tiny_vit


@pytest.mark.parametrize(
    ("task", "classes", "dataset", "seen"),
    [
        ("B2N", "base", "OxfordPets", True),
        ("B2N", "new", "OxfordPets", False),
        ("B2N", "all", "OxfordPets", False),
        ("FS", "all", "OxfordPets", True),
        ("CD", "all", "ImageNet", True),
        ("CD", "all", "ImageNetV2", False),
        ("CD", "all", "OxfordPets", False),
    ],
)
def test_task(task, classes, dataset, seen):
    words = ("TASK", task, "DATASET.SUBSAMPLE_CLASSES", classes, "DATASET.NAME", dataset)
    assert METHODS["MMRL"].options(config("MMRL", *words)).seen == seen


def test_logits_by_hand():
    words = ("ALPHA", 0.25, "READING", "released", "DATASET.SUBSAMPLE_CLASSES")
    model, images = relearn(build("MMRL", *words, "base")).eval(), draw_images(tiny_vit())
    image, rep, text = model.all_features(images)
    z, z_rep = (100 * torch.nn.functional.normalize(f, dim=-1) @ text.T for f in (image, rep))
    torch.testing.assert_close(model(images), 0.25 * z + 0.75 * z_rep, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(relearn(build("MMRL", *words, "new")).eval()(images), z, atol=1e-3, rtol=1e-4)
    corrected = relearn(build("MMRL", "READING", "corrected")).eval()(images)
    torch.testing.assert_close(corrected, cosine_logits(image, text, model.logit_scale), atol=1e-4, rtol=1e-4)
