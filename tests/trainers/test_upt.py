"""UPT by its defining properties: the block's formula, shapes, and one shared prompt that moves both towers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from prompting.learners import UnifiedPrompts
from tests.reference.methods import build, draw_images, relearn, tiny_vit


def norm(x, layer):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt() * (
        layer.weight
    ) + layer.bias


def attention(x, layer, heads):
    """Self-attention of one sequence (L, d) by loops over heads and positions."""
    q, k, v = (x @ layer.in_proj_weight.T + layer.in_proj_bias).chunk(3, -1)
    wide = x.shape[1] // heads
    rows = []
    for i in range(len(x)):
        parts = []
        for h in range(heads):
            part = slice(h * wide, (h + 1) * wide)
            scores = torch.stack([q[i, part] @ k[j, part] / wide**0.5 for j in range(len(x))])
            parts.append(sum(p * v[j, part] for j, p in enumerate(scores.softmax(0))))
        rows.append(torch.cat(parts))
    return layer.out_proj(torch.stack(rows))


def test_the_block_by_hand():
    """U' = SA(U) + LN(U), V = FFN(LN(U')) + LN(U'), split in two, the second part mapped to d_v."""
    learner = relearn(UnifiedPrompts(2, 3, 128, 20, depth=2), std=0.1)
    with torch.no_grad():
        prompts = learner()
        for layer in range(2):
            u = learner.ctx[layer]
            mixed = norm(attention(u, learner.attn, heads=2) + norm(u, learner.ln_1), learner.ln_2)
            made = learner.mlp[2](F.gelu(learner.mlp[0](mixed))) + mixed
            text = prompts.text if layer == 0 else prompts.deep_text[layer - 1]
            visual = prompts.visual if layer == 0 else prompts.deep_visual[layer - 1]
            torch.testing.assert_close(text[0], made[:2], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(visual[0], learner.proj(made[2:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 3])
def test_shapes(depth):
    prompts = UnifiedPrompts(4, 2, 64, 128, depth)()
    assert prompts.text.shape == (1, 4, 64) and prompts.visual.shape == (1, 2, 128)
    assert [p.shape for p in prompts.deep_text] == [(1, 4, 64)] * (depth - 1)
    assert [p.shape for p in prompts.deep_visual] == [(1, 2, 128)] * (depth - 1)


@pytest.mark.parametrize("vector", [0, 3, 4, 6])
@pytest.mark.parametrize("block", [0, 2])
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


def test_the_shared_prompt_learns_from_each_tower():
    """With the text tower's prompts held, the image side alone reaches every vector of U; and the other way round."""
    images, labels = draw_images(tiny_vit()), torch.tensor([0, 1])
    for held in ("text", "visual"):
        model = relearn(build("UPT")).train()
        free = model.prompt_learner.forward

        def forward(free=free, held=held):
            p = free()
            frozen = {held: getattr(p, held).detach(), f"deep_{held}": [d.detach() for d in getattr(p, f"deep_{held}")]}
            return p._replace(**frozen)

        model.prompt_learner.forward = forward
        model.training_loss(images, labels)[0].backward()
        assert (model.prompt_learner.ctx.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("words", [("PROMPT_DEPTH", 0), ("PROMPT_DEPTH", 4), ("N_CTX_VISION", 0), ("N_CTX_TEXT", 0)])
def test_refused(words):
    with pytest.raises(ValueError, match="depth|length"):
        build("UPT", *words)
