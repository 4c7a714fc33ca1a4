"""ProDA by its defining properties: the closed form of the Gaussian loss, the orthogonality term, the positions."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from prompting.clip.tokens import clip_tokenizer
from prompting.methods.proda import gaussian_logits, orthogonality, prompt_positions
from tests.reference.methods import NAMES, build, draw_images, relearn, tiny_vit

B, K, N, D, SCALE = 3, 4, 5, 6, 3.0


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def problem():
    """Unit image features, samples of the class weights, labels."""
    image, weights = (F.normalize(draw(*shape, seed=i), dim=-1) for i, shape in enumerate([(B, D), (K, N, D)]))
    return image, weights, torch.tensor([2, 0, 3])


def covariance(weights):
    """Sigma by loops over classes and samples: (K, K, D, D)."""
    mean = weights.mean(1)
    sigma = torch.zeros(K, K, D, D, dtype=weights.dtype)
    for i, j, n in product(range(K), range(K), range(N)):
        sigma[i, j] += torch.outer(weights[i, n] - mean[i], weights[j, n] - mean[j]) / N
    return sigma


def test_mean_and_spread_by_the_formula(problem):
    image, weights, labels = problem
    logits, spread = gaussian_logits(image, weights, labels, SCALE)
    sigma = covariance(weights)
    for b, y in enumerate(labels):
        for c in range(K):
            assert logits[b, c].item() == pytest.approx(SCALE * (image[b] @ weights[c].mean(0)).item(), abs=1e-5)
            a = sigma[c, c] + sigma[y, y] - sigma[c, y] - sigma[y, c]
            assert spread[b, c].item() == pytest.approx(SCALE**2 * (image[b] @ a @ image[b]).item(), abs=1e-5)
        assert spread[b, y] == 0


def test_orthogonality_by_loops():
    features = draw(4, 6, seed=3)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    mean = sum(abs(F.cosine_similarity(features[i], features[j], dim=0).item()) for i, j in pairs) / 12
    assert orthogonality(features).item() == pytest.approx(mean, abs=1e-6)
    assert orthogonality(torch.eye(4)).item() == 0
    assert orthogonality(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).item() == pytest.approx(1)


def test_positions():
    assert prompt_positions(8) == ["front"] * 2 + ["middle"] * 2 + ["end"] * 4
    assert prompt_positions(3) == ["end"] * 3 and len(prompt_positions(7)) == 7
    model = build("ProDA", "N", 4)
    name = clip_tokenizer().encode(NAMES[1])
    for n, place in enumerate(["front", "middle", "end", "end"]):
        start = {"front": 1, "middle": 3, "end": 5}[place]
        ids, words = model.tokens.ids[n, 1].tolist(), model.tokens.words[n, 1].nonzero().flatten().tolist()
        assert words == [start, start + 1] and [ids[i] for i in words] == name
        assert model.tokens.context[n, 1].tolist() == [i for i in range(1, 7) if i not in words]
    # without a class name: SOS, the contexts, a full stop, EOS
    assert model.nameless.context.tolist() == [[[1, 2, 3, 4]]] and model.nameless.eos.item() == 6
    end = [*clip_tokenizer().encode("."), clip_tokenizer().eot_token_id]
    assert model.nameless.ids[0, 0].tolist()[5:] == end


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_training_loss(alpha):
    """One step: the bound of a random batch of prompts; the orthogonality of all, which alone reaches the others."""
    model = relearn(build("ProDA", "N", 4, "PROMPT_BATCH", 2, "ALPHA", alpha)).train()
    images, labels = draw_images(tiny_vit(), 2), torch.tensor([1, 2])
    torch.manual_seed(3)
    chosen = torch.randperm(4)[:2]
    torch.manual_seed(3)
    loss, seen = model.training_loss(images, labels)
    loss.backward()
    ctx = model.prompt_learner.ctx
    assert {n for n in range(4) if ctx.grad[n].abs().max() > 0} == (set(range(4)) if alpha else set(chosen.tolist()))

    with torch.no_grad():
        image = F.normalize(model.image_encoder(images).prompt[:, 0], dim=-1)
        weights = F.normalize(model.text_encoder(model.tokens, ctx).prompt, dim=-1)[:, chosen]
        semantic = torch.cat([model.text_encoder(model.nameless, ctx[n : n + 1]).prompt[0] for n in range(4)])
        logits, spread = gaussian_logits(image, weights, labels, model.logit_scale)
        expected = F.cross_entropy(logits + spread / 2, labels) + alpha * orthogonality(semantic)
    torch.testing.assert_close(loss.detach(), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(seen.detach(), logits, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("batch", [3, 4])
def test_evaluation_is_the_product_with_the_mean_weight(batch):
    model = relearn(build("ProDA", "N", 4, "PROMPT_BATCH", batch)).eval()
    images = draw_images(tiny_vit(), 2)
    with torch.no_grad():
        logits = model(images)
        image = model.image_encoder(images).prompt[:, 0]
        weights = F.normalize(model.text_encoder(model.tokens, model.prompt_learner.ctx).prompt, dim=-1)
    for b, k in product(range(2), range(len(NAMES))):
        expected = model.logit_scale * F.normalize(image[b], dim=0) @ (sum(weights[k]) / 4)
        assert logits[b, k].item() == pytest.approx(expected.item(), abs=1e-4)
