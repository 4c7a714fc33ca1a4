"""The learned tensors: names, shapes, starts and what they hand to the encoders."""

import pytest
import torch

from prompting.checkpoint import learned_state
from prompting.learners import IndependentPrompts, ProjectedPrompts, TextPrompts, VisualPrompts


def test_projected_prompts():
    learner = ProjectedPrompts(3, 2, 8, 5, depth=3)
    assert {tuple(t.shape) for t in learned_state(learner).values()} == {(3, 2, 8), (5, 8), (5,)}
    deep = learner.compound_prompt_projections
    assert torch.equal(deep[0].weight, deep[1].weight) and deep[0].weight is not deep[1].weight
    prompts = learner()
    for n in range(3):  # one map for all prompts, v = W t + c
        for i in range(2):
            expected = learner.proj.weight @ learner.ctx[n, i] + learner.proj.bias
            torch.testing.assert_close(prompts.visual[n, i], expected)
    torch.testing.assert_close(prompts.deep_visual[1], deep[1](learner.compound_prompts_text[1]))


def test_single_prompts_are_stored_without_an_axis():
    prompts = ProjectedPrompts(None, 2, 8, 5, depth=2)
    assert prompts.ctx.shape == (2, 8) and prompts().text.shape == (1, 2, 8)
    assert prompts().visual.shape == (1, 2, 5) and prompts().deep_text[0].shape == (1, 2, 8)
    assert VisualPrompts(None, 2, 5, depth=2)().deep_visual[0].shape == (1, 2, 5)


def test_start():
    torch.manual_seed(0)
    words = torch.arange(16.0).view(2, 8)
    learner = TextPrompts(200, 2, 8, init=[words])
    assert torch.equal(learner.ctx[0], words)
    assert learner.ctx[1:].std().item() == pytest.approx(0.02, rel=0.1)
    assert TextPrompts(None, 2, 8, init=[words]).ctx.equal(words)


@pytest.mark.parametrize("text_depth, vision_depth", [(0, 2), (2, 0), (3, 1), (0, 0)])
def test_independent_depths(text_depth, vision_depth):
    prompts = IndependentPrompts(TextPrompts(3, 2, 8, text_depth), VisualPrompts(4, 2, 5, vision_depth))()
    assert (prompts.text is None) == (text_depth == 0) and len(prompts.deep_text) == max(0, text_depth - 1)
    assert (prompts.visual is None) == (vision_depth == 0) and len(prompts.deep_visual) == max(0, vision_depth - 1)
    if vision_depth:
        assert prompts.visual.shape == (4, 2, 5)
