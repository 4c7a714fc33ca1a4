"""Initial values of the learned tensors, and depths; shapes and coupling: tests/trainers/test_golden.py."""

import pytest
import torch

from prompting.learners import IndependentPrompts, ProjectedPrompts, TextPrompts, VisualPrompts


def test_start():
    torch.manual_seed(0)
    words = torch.arange(16.0).view(2, 8)
    learner = TextPrompts(200, 2, 8, init=[words])
    assert torch.equal(learner.ctx[0], words)
    assert learner.ctx[1:].std().item() == pytest.approx(0.02, rel=0.1)
    assert TextPrompts(None, 2, 8, init=[words]).ctx.equal(words)
    first, second = ProjectedPrompts(3, 2, 8, 5, depth=3).compound_prompt_projections
    assert torch.equal(first.weight, second.weight)  # copies of one map


@pytest.mark.parametrize("text_depth, vision_depth", [(0, 2), (2, 0), (3, 1), (0, 0)])
def test_independent_depths(text_depth, vision_depth):
    prompts = IndependentPrompts(TextPrompts(3, 2, 8, text_depth), VisualPrompts(4, 2, 5, vision_depth))()
    assert (prompts.text is None) == (text_depth == 0) and len(prompts.deep_text) == max(0, text_depth - 1)
    assert (prompts.visual is None) == (vision_depth == 0) and len(prompts.deep_visual) == max(0, vision_depth - 1)
    if vision_depth:
        assert prompts.visual.shape == (4, 2, 5)
