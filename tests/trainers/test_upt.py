"""UPT by its defining properties: the block's formula, and one shared prompt that moves both towers."""

import pytest
import torch
import torch.nn.functional as F

from prompting.learners import ReleasedUnifiedPrompts, UnifiedPrompts
from tests.reference.clip_naive import attend, layer_norm
from tests.reference.methods import build, draw_images, relearn, tiny_vit


def test_the_block_by_hand():
    """U' = SA(U) + LN(U), V = FFN(LN(U')) + LN(U'), split in two, the second part mapped to d_v."""
    learner = relearn(UnifiedPrompts(2, 3, 128, 20, depth=2), std=0.1)
    state = learner.state_dict()
    with torch.no_grad():
        prompts = learner()
        assert prompts.text.shape == (1, 2, 128) and prompts.visual.shape == (1, 3, 20)
        for layer in range(2):
            u = learner.ctx[layer]
            q, k, v = (u @ state["attn.in_proj_weight"].T + state["attn.in_proj_bias"]).chunk(3, -1)
            attended = learner.attn.out_proj(attend(q, k, v, heads=2, causal=False))
            mixed = layer_norm(attended + layer_norm(u, state, "ln_1"), state, "ln_2")
            made = learner.mlp[2](F.gelu(learner.mlp[0](mixed))) + mixed
            text = prompts.text if layer == 0 else prompts.deep_text[layer - 1]
            visual = prompts.visual if layer == 0 else prompts.deep_visual[layer - 1]
            torch.testing.assert_close(text[0], made[:2], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(visual[0], learner.proj(made[2:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("block, vector", [(0, 0), (0, 6), (2, 3), (2, 4)])
def test_every_vector_of_the_shared_prompt_moves_both_towers(vector, block):
    model = relearn(build("UPT")).eval()  # 4 text and 3 visual vectors, depth 3
    images = draw_images(tiny_vit())

    def outputs():
        with torch.no_grad():
            prompts = model.prompt_learner()
            text = model.text_encoder(model.tokens, prompts.text, prompts.deep_text).prompt
            return prompts, text, model.image_encoder(images, prompts.visual, prompts.deep_visual).prompt

    before, text, image = outputs()
    with torch.no_grad():
        model.prompt_learner.ctx[block, vector] += 0.5 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    after, new_text, new_image = outputs()
    assert (text - new_text).abs().max() > 1e-3 and (image - new_image).abs().max() > 1e-3
    for i in range(3):  # only that block's prompts moved
        sides = [(p.text, p.visual) if i == 0 else (p.deep_text[i - 1], p.deep_visual[i - 1]) for p in (before, after)]
        assert [torch.equal(a, b) for a, b in zip(*sides)] == [i != block] * 2


# ---- the reading ``released``


def test_the_released_block_by_hand():
    """H = LN(U + out_proj(W_v U)), O = H + FFN(LN(H)), split in two, the second part mapped to d_v."""
    learner = relearn(ReleasedUnifiedPrompts(2, 3, 16, 20), std=0.3).eval()
    state, u = learner.state_dict(), learner.uni_ctx[0]
    with torch.no_grad():
        prompts = learner()
        value = u @ state["self_attn.in_proj_weight"][32:].T + state["self_attn.in_proj_bias"][32:]
        attended = value @ state["self_attn.out_proj.weight"].T + state["self_attn.out_proj.bias"]
        mixed = layer_norm(u + attended, state, "norm1")
        made = mixed + learner.linear2(torch.relu(learner.linear1(layer_norm(mixed, state, "norm2"))))
    torch.testing.assert_close(prompts.text[0], made[:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prompts.visual[0], made[2:] @ learner.mlp.weight.T + learner.mlp.bias)
    assert not prompts.deep_text and not prompts.deep_visual


def test_released_prompts_do_not_mix():
    """A vector moves its prompt alone, queries and keys get no gradient, and dropout acts in training only."""
    learner = relearn(ReleasedUnifiedPrompts(2, 3, 16, 20), std=0.3)
    prompts = learner.eval()()
    (gradient,) = torch.autograd.grad(prompts.visual.sum(), learner.uni_ctx)
    assert not gradient[0, :2].any() and gradient[0, 2:].any(-1).all()
    prompts = learner()
    (prompts.text.sum() + prompts.visual.sum()).backward()
    gradient = learner.self_attn.in_proj_weight.grad
    assert gradient[:32].abs().max() < 1e-6 and gradient[32:].abs().max() > 1e-2
    assert torch.equal(learner().text, prompts.text) and not torch.equal(learner.train()().text, prompts.text)


def test_the_released_reading_is_unified():
    """Whatever the words say, and also with the class name elsewhere."""
    images = draw_images(tiny_vit())
    unified = relearn(build("Unified")).eval()
    upt = build("UPT", "READING", "released", "N_CTX_VISION", 4).eval()
    upt.load_state_dict(unified.state_dict())
    torch.testing.assert_close(upt(images), unified(images))
    front = build("Unified", "CLASS_TOKEN_POSITION", "front").eval()
    front.load_state_dict(unified.state_dict())
    assert (front(images) - unified(images)).abs().max() > 1e-2
