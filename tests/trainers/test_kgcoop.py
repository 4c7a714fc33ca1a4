"""KgCoOp: the teacher's sentences; the words it starts from are those of tests/golden/kgcoop.json."""

import pytest
import torch

from prompting.clip import tokenize_texts
from tests.reference.methods import NAMES, build, tiny_vit


@pytest.mark.parametrize(
    "dataset, template, sentence",
    [
        ("OxfordPets", "", "a photo of a {}, a type of pet."),
        ("DescribableTextures", "", "a photo of a {}, a type of texture."),
        ("My own", "", "a photo of a {}."),
        ("OxfordPets", "look, a {}!", "look, a {}!"),
    ],
)
def test_the_sentences_of_the_teacher(dataset, template, sentence):
    model = build("KgCoOp", "DATASET.NAME", dataset, "DATASET.TEMPLATE", template)
    tokens = tokenize_texts([sentence.format(name) for name in NAMES], clip_model=tiny_vit())
    with torch.no_grad():
        expected = model.text_encoder(tokens).prompt[:, 0]
    torch.testing.assert_close(model.get_buffer("teacher_text"), expected)
