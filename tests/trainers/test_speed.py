"""Memory is predicted for every method that does not divide its text side by itself, and kept to."""

from __future__ import annotations

import pytest
import torch

from prompting.checkpoint import learned_state
from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from tests.reference.clip_states import vit_state
from tests.reference.methods import METHODS, build, draw_images, relearn
from tests.reference.saved import saved_bytes
from trainers import speed

CLASSES = [f"cat {'nap ' * (i % 3)}{i}" for i in range(24)]
LABELS = torch.tensor([0, 17])


@pytest.fixture(scope="module")
def clip():
    """Wide enough for what blocks keep to outweigh masks and indices."""
    return load_clip(build_clip(vit_state(d_v=64, d_l=128, vision_layers=2, text_layers=4, grid=2), "drawn"))


def proda(clip, number=8):
    return relearn(build("ProDA", "N", number, "PROMPT_BATCH", 4, clip=clip, classnames=CLASSES), std=0.05).train()


@pytest.mark.parametrize("method", list(METHODS))
def test_what_is_predicted(method):
    found = speed.limit_memory(build(method), 2, 0, "cpu")
    if method == "CoCoOp":  # runs parts of its own
        assert found is None
    else:
        learns_text = method not in ("ZeroshotCLIP", "VPT")
        assert (found.parts["text"] > 0) == learns_text and found.classes_at_once == found.classes == 3


def test_freed_memory_is_returned_where_the_next_part_might_not_fit(clip, monkeypatch):
    """Between parts of both passes: beyond what is predicted less what such a part adds."""
    asked = []
    monkeypatch.setattr(speed, "held_bytes", lambda device: 0)
    monkeypatch.setattr(speed, "return_freed", asked.append)
    model = relearn(build("ALIGN", clip=clip, classnames=CLASSES)).train()
    whole = speed.limit_memory(model, 2, 0, "cpu")
    found = speed.limit_memory(model, 2, int(0.6 * whole.total), "cpu")
    assert 0 < found.parts["at work"] < found.adds < whole.adds
    loss, _ = model.training_loss(draw_images(clip), LABELS)
    forward = len(asked)
    loss.backward()
    assert set(asked) == {found.total - found.adds} and len(asked) > forward > 1


@pytest.mark.parametrize("number", [8, 20])
def test_proda_keeps_what_is_predicted(clip, monkeypatch, number):
    """For the most expensive prompts of a step, those with the class name in front."""
    monkeypatch.setattr(speed, "held_bytes", lambda device: 0)
    model = proda(clip, number)
    monkeypatch.setattr(torch, "randperm", lambda size: torch.arange(size))
    found = speed.limit_memory(model, 2, 0, "cpu")
    kept = saved_bytes(lambda: model.training_loss(draw_images(clip), LABELS), model.clip)
    assert found.parts["text"] == pytest.approx(kept, rel=0.15)  # the nameless prompts included


def test_proda_in_parts_is_proda(clip, monkeypatch):
    """Under less memory: fewer classes at once, less kept, the same loss and the same gradients."""
    monkeypatch.setattr(speed, "held_bytes", lambda device: 0)

    def run(budget):
        torch.manual_seed(3)
        model = proda(clip)
        found = speed.limit_memory(model, 2, budget, "cpu")
        torch.manual_seed(3)
        kept = saved_bytes(lambda: model.training_loss(draw_images(clip), LABELS), model.clip)
        torch.manual_seed(3)
        loss, logits = model.training_loss(draw_images(clip), LABELS)
        loss.backward()
        return found, kept, (loss.detach(), logits.detach(), *(t.grad for t in learned_state(model).values()))

    whole, kept_whole, expected = run(0)
    parts, kept_in_parts, values = run(int(0.6 * whole.total))
    assert parts.classes_at_once < whole.classes_at_once == 24
    assert parts.total <= 0.6 * whole.total and kept_in_parts < 0.6 * kept_whole
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="with one class at a time, more than the 0.00 GB allowed"):
        run(1)
