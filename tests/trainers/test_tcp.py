"""TCP: its two sentences, where the class-aware tokens enter, and its optimizer."""

import pytest
import torch
import torch.nn.functional as F

from prompting.clip import clip_tokenizer, tokenize_texts
from tests.reference.methods import NAMES, build, draw_images, relearn, tiny_vit, train_on_four


@pytest.mark.parametrize(
    ("dataset", "sentence", "teacher"),
    [
        ("OxfordPets", "X X X X {}, a type of pet.", "a photo of a {}, a type of pet."),
        ("FGVCAircraft", "X X X X {}, a type of aircraft.", "a photo of an aircraft {}."),
        ("StanfordCars", "X X X X {}, a type of car", "a photo of a {}."),
        ("My own", "X X X X {}.", "a photo of a {}."),
    ],
)
def test_sentences(dataset, sentence, teacher):
    model = build("TCP", "DATASET.NAME", dataset)
    for k, name in enumerate(NAMES):
        ids, eos = model.tokens.ids[0, k], model.tokens.eos[0, k]
        assert ids[1:eos].tolist() == clip_tokenizer().encode(sentence.format(name))
        assert model.tokens.context[0, k].tolist() == [1, 2, 3, 4]
    tokens = tokenize_texts([teacher.format(name) for name in NAMES], clip_model=tiny_vit())
    with torch.no_grad():
        expected = F.normalize(model.text_encoder(tokens).prompt[:, 0], dim=-1)
    torch.testing.assert_close(model.get_buffer("prompt_learner.features"), expected)


def test_loss_by_hand_with_class_specific_contexts():
    """One context for all classes: tests/trainers/test_golden.py."""
    model, images, labels = relearn(build("TCP", "CSC", True)), draw_images(tiny_vit()), torch.tensor([0, 2])
    loss, logits = model.training_loss(images, labels)
    text, w0 = model.class_features(model.prompt_learner()), model.get_buffer("prompt_learner.features")
    mean = sum(w @ other / (w.norm() * other.norm()) for w, other in zip(text, w0)) / len(w0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels) + 8 * (1 - mean), atol=1e-5, rtol=1e-4)


def test_the_context_acts_on_what_earlier_blocks_wrote():
    """Two models with the same class-aware tokens and other contexts differ, as the tokens enter before block 1."""
    first, second = relearn(build("TCP")), relearn(build("TCP"))
    with torch.no_grad():
        second.prompt_learner.ctx.neg_()
        images = draw_images(tiny_vit())
        assert not torch.allclose(first.eval()(images), second.eval()(images), atol=1e-3)
        for model in (first, second):  # before block 0 the tokens would replace the whole context
            model.prompt_learner.layer = 1
        tokens = first.prompt_learner().deep_text[0]
        assert tokens.shape == (1, 3, 4, tiny_vit().transformer.width)


@pytest.mark.parametrize(("name", "eps"), [("adam", 1e-3), ("adamw", 1e-3), ("sgd", None)])
def test_eps(name, eps, tmp_path):
    trainer = train_on_four("TCP", tmp_path, "OPTIM.NAME", name)
    assert [group.get("eps") for group in trainer.optim.param_groups] == [eps]


def test_a_weight_without_effect_is_said(caplog):
    build("TCP", "W", 2.0)
    assert "W has no effect" in caplog.text
