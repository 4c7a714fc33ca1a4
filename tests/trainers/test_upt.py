"""UPT by its defining properties: the block's formula, and the reading ``released``."""

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


# ---- the reading ``released``


def test_dropout_acts_in_training_only():
    """The block itself: tests/trainers/test_golden.py."""
    learner = relearn(ReleasedUnifiedPrompts(2, 3, 16, 20), std=0.3).eval()
    text = learner().text
    assert torch.equal(learner().text, text) and not torch.equal(learner.train()().text, text)


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
