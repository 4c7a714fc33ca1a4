"""Memory is predicted for every method that does not divide its text side by itself, and kept to."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from dassl.config import get_cfg_default

import datasets
import train
import trainers
from prompting.checkpoint import learned_state
from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from prompting.memory import fit
from tests.reference.clip_states import vit_state
from tests.reference.methods import METHODS, build, draw_images, relearn, tiny_vit
from tests.reference.saved import saved_bytes
from trainers import speed

CLASSES = [f"cat {'nap ' * (i % 3)}{i}" for i in range(24)]
LABELS = torch.tensor([0, 17])


@pytest.fixture(scope="module")
def clip():
    """Wide enough for what blocks keep to outweigh masks and indices."""
    return load_clip(build_clip(vit_state(d_v=64, d_l=128, vision_layers=2, text_layers=4, grid=2), "drawn"))


def small_cfg(*words):
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    datasets.extend_cfg(cfg)
    cfg.merge_from_list(["DATALOADER.TRAIN_X.BATCH_SIZE", 6, *words])
    return cfg


@pytest.fixture
def said(monkeypatch):
    """What is logged."""
    lines = []
    monkeypatch.setattr(speed.logger, "info", lines.append)
    return lines


def test_a_run_says_what_it_will_hold(said):
    speed.fit_machine(build("ALIGN"), small_cfg(), "cpu")
    assert len(said) == 1 and re.match(r"Memory of a training step: [\d.]+ GB predicted of [\d.]+ GB \(held", said[0])


def test_the_flag_is_the_budget(clip, said):
    """--max-memory, in 10^9 bytes."""
    cfg = train.setup_cfg(train.parse_args(["--max-memory", "123.5", "--trainer", "ALIGN"]))
    model = build("ALIGN", clip=clip, classnames=CLASSES)
    speed.fit_machine(model, cfg, "cpu")
    assert " predicted of 123.50 GB " in said[0] and model.text_encoder.classes_at_once is None
    with pytest.raises(ValueError, match="with one class at a time, more than the 0.10 GB allowed"):
        speed.fit_machine(model, small_cfg("TRAIN.MAX_MEMORY_GB", 0.1), "cpu")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MAX_MEMORY_GB", -1.0, "TRAIN.MAX_MEMORY_GB is -1.0; allowed: 0"),
        ("COMPILE", "inductr", "TRAIN.COMPILE is 'inductr'; allowed: .*did you mean 'inductor'"),
    ],
)
def test_settings_that_are_wrong(key, value, message):
    with pytest.raises(ValueError, match=message):
        speed.fit_machine(build("CoOp"), small_cfg(f"TRAIN.{key}", value), "cpu")


@pytest.mark.parametrize("method, words", [("MMP", ()), ("ALIGN", ()), ("CoOp", ())])
@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_compiled_runs_do_not_give_up(method, words, said):
    """Of both towers, in both passes, with other numbers of classes and images: no recompilation without end."""
    torch._dynamo.reset()
    for classes, images in ((3, 2), (5, 3), (4, 4)):
        names = CLASSES[:classes]
        plain, compiled = (relearn(build(method, *words, classnames=names), std=0.05) for _ in range(2))
        speed.fit_machine(compiled, small_cfg("TRAIN.COMPILE", "eager"), "cpu")
        assert compiled.text_encoder.steps is compiled.image_encoder.steps is not plain.text_encoder.steps
        values = []
        for model in (plain, compiled):
            pictures, labels = draw_images(tiny_vit(), images), torch.arange(images) % classes
            loss, logits = model.train().training_loss(pictures, labels)
            loss.backward()
            with torch.no_grad():
                scored = model.eval()(pictures)
            values.append([logits.detach(), scored, *(t.grad for t in learned_state(model).values())])
        torch.testing.assert_close(*values, atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("m, n, b", [(3, 1, 2), (1, 2, 2), (2, 2, 1)])
def test_the_transport_is_a_part_of_the_prediction(m, n, b):
    """Of M visual and N text prompts, O patches and b vectors."""
    words = ["COUPLING", "independent", "VISION_PROMPT_NUMBER", m, "TEXT_PROMPT_NUMBER", n, "N_CTX", b]
    model = build("ALIGN", *words)
    (tokens, prompts), *_ = model.training_text()
    longest = int(model.token_set.sum(-1).max())
    pairs = 5 * len(CLASSES[:3]) * m * n
    expected = 24 * pairs + 20 * pairs * (model.shape.patches + b) * longest
    assert speed.head_bytes(model, 5, tokens, prompts) == expected
    model.head.settings = replace(model.head.settings, max_elements=7)
    assert speed.head_bytes(model, 5, tokens, prompts) == 24 * pairs + 20 * 7


NO_VISUAL = ("COUPLING", "independent", "VISION_PROMPT_DEPTH", 0, "VISION_PROMPT_NUMBER", 1, "BETA", 0.0)


@pytest.mark.parametrize(
    "method, words, each",
    [
        ("PLOT", (), 9),
        ("PLOTPP", ("M", 2), 2),
        ("CoOp", (), 0),
        ("ALIGN", NO_VISUAL, 1),
        ("ALIGN", (*NO_VISUAL, "IMAGE_SET", "patches"), 9),
    ],
)
def test_so_is_that_of_a_prompt_level_alone(method, words, each):
    model = build(method, *words)
    (tokens, prompts), *_ = model.training_text()
    n = prompts.text.shape[0]
    assert speed.head_bytes(model, 5, tokens, prompts) == 24 * 5 * 3 * n * each


@pytest.mark.parametrize("given, each", [(0.0, int(0.9 * 2 * 10**9)), (6.0, 15 * 10**8)])
def test_processes_share_a_batch_and_a_machine(monkeypatch, said, given, each):
    asked = []
    monkeypatch.setattr(speed, "processes", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(speed, "held_bytes", lambda device: 0)
    monkeypatch.setattr(speed, "free_bytes", lambda device: 8 * 10**9)
    monkeypatch.setattr(
        speed, "fit", lambda *a, budget, **k: asked.append((a[4], budget)) or fit(*a, budget=budget, **k)
    )
    speed.fit_machine(build("CoOp"), small_cfg("TRAIN.MAX_MEMORY_GB", given), "cpu")
    assert asked == [(2, each)]  # of 6 images


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
    """Between parts of both passes: beyond what is allowed less what such a part adds."""
    asked = []
    monkeypatch.setattr(speed, "held_bytes", lambda device: 0)
    monkeypatch.setattr(speed, "private_bytes", lambda: 0)
    monkeypatch.setattr(speed, "return_freed", asked.append)
    model = relearn(build("ALIGN", clip=clip, classnames=CLASSES)).train()
    whole = speed.limit_memory(model, 2, 0, "cpu")
    found = speed.limit_memory(model, 2, int(0.6 * whole.total), "cpu")
    assert 0 < found.parts["at work"] < found.adds < whole.adds
    loss, _ = model.training_loss(draw_images(clip), LABELS)
    forward = len(asked)
    loss.backward()
    assert set(asked) == {int(0.6 * whole.total) - found.adds} and len(asked) > forward > 1


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
