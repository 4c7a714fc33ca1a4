"""ProGrad: the projection of a gradient, the words it starts from, and its steps."""

import pytest
import torch

from prompting.checkpoint import learned_state
from prompting.clip import word_vectors
from prompting.methods import prograd
from tests.reference.methods import build, draw_images, relearn, tiny_vit, train_on_four


@pytest.mark.parametrize("weight", [1.0, 0.8])
def test_the_projection_by_hand(weight):
    """Entry by entry; a gradient that does not oppose stays, and so does one beside a zero gradient."""
    stream = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, b = torch.randn(2, 3, 4, generator=stream).double()
        dot, square = 0.0, 0.0
        for x, y in zip(a.flatten().tolist(), b.flatten().tolist()):
            dot, square = dot + x * y, square + y * y
        expected = a - weight * dot / square * b if dot < 0 else a
        torch.testing.assert_close(prograd.project(a, b, weight), expected)
        if dot < 0 and weight == 1:
            assert (prograd.project(a, b) * b).sum().abs() < 1e-12
        torch.testing.assert_close(prograd.project(a, 1e4 * b, weight), expected)  # the scale of b does not matter
    assert torch.equal(prograd.project(a, torch.zeros_like(b)), a)


def test_steps_of_a_trainer(tmp_path):
    """SGD steps along the projected gradient: the same as by autograd's gradients of the two terms."""
    trainer = train_on_four("ProGrad", tmp_path, "OPTIM.LR_SCHEDULER", "single_step", "LAMBDA", 0.7)
    relearn(trainer.model)
    trainer.model.train()
    trainer.num_batches, trainer.batch_idx = 9, 0
    ctx = learned_state(trainer.model)["prompt_learner.ctx"]
    batch = {"img": draw_images(tiny_vit()), "label": torch.tensor([0, 1])}
    expected, momentum, opposed = ctx.detach().clone(), torch.zeros_like(ctx), 0
    for _ in range(4):
        terms, _ = trainer.model.loss_terms(batch["img"], batch["label"])
        a, b = (torch.autograd.grad(terms[name], ctx, retain_graph=True)[0] for name in ("xe", "kl"))
        dot = (a * b).sum()
        opposed += bool(dot < 0)
        a = a - 0.7 * dot / (b * b).sum() * b if dot < 0 else a
        momentum = 0.9 * momentum + a + 5e-4 * expected
        expected = expected - 0.05 * momentum
        summary = trainer.forward_backward(batch)
        assert list(summary) == ["xe_loss", "kl_loss", "acc"]
        torch.testing.assert_close(ctx.detach(), expected, atol=1e-5, rtol=1e-4)
    assert opposed


def test_the_distance_by_hand():
    """T^2 times the mean over images of -sum_k q_k log p_k, at temperature T."""
    model, images = relearn(build("ProGrad", "T", 2.0)), draw_images(tiny_vit())
    terms, logits = model.loss_terms(images, torch.tensor([0, 2]))
    frozen = model.image_encoder(images).prompt[:, 0]
    cosines = torch.nn.functional.cosine_similarity(frozen[:, None], model.get_buffer("teacher_text")[None], dim=-1)
    q = torch.softmax(model.logit_scale * cosines / 2, -1)
    log_p = torch.log_softmax(logits / 2, -1)
    expected = sum(-(q[b, k] * log_p[b, k]) for b in range(2) for k in range(3)) * 4 / 2
    torch.testing.assert_close(terms["kl"], expected, atol=1e-5, rtol=1e-4)


def test_the_words_it_starts_from():
    """Zeros first; words are counted by blanks, so that the ninth token of eight words stays a fixed token."""
    model = build("ProGrad", "N_CTX", 10, "DATASET.NAME", "OxfordPets")
    words = word_vectors(tiny_vit(), "a type of pet, a photo of a")
    assert len(words) == 9
    start = model.prompt_learner.ctx
    assert torch.equal(start, torch.cat([torch.zeros(2, start.shape[1]), words[:8]]))
    fixed = model.tokens.ids[0, 0, 11]
    assert torch.equal(tiny_vit().token_embedding.weight[fixed].float(), words[8])


@pytest.mark.parametrize("template", ["{} texture.", "a photo of a {}, a type of pet.", "one two three four five {}."])
def test_sentences_that_it_cannot_start_from(template):
    with pytest.raises(ValueError, match=r"CTX_INIT is True, but the sentence .* has not 1 to 4 words"):
        build("ProGrad", "DATASET.TEMPLATE", template)
    build("ProGrad", "DATASET.TEMPLATE", template, "CTX_INIT", False)
