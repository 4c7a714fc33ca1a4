"""KgCoOp: the teacher's sentences, and the words it starts from."""

import pytest
import torch

from prompting.clip import tokenize_texts, word_vectors
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


def test_the_words_replace_the_length():
    model = build("KgCoOp", "N_CTX", 16, "CTX_INIT", True)
    assert torch.equal(model.prompt_learner.ctx, word_vectors(tiny_vit(), "a photo of a"))
    assert build("KgCoOp", "N_CTX", 6, "CTX_INIT", False).prompt_learner.ctx.shape[0] == 6
