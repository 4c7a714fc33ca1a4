"""The config keys of memory and compilation, and towers whose blocks are compiled."""

import re

import pytest
import torch

import train
from prompting import memory
from prompting.checkpoint import learned_state
from tests.reference.methods import build, draw_images, relearn, tiny_vit
from trainers import speed

CLASSES = [f"cat {'nap ' * (i % 3)}{i}" for i in range(5)]
FAIL = "fail_on_recompile_limit_hit"  # which older torch, as 2.4, cannot
RECOMPILED_WITHOUT_END = {FAIL: True} if hasattr(torch._dynamo.config, FAIL) else {}


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(speed.logger, "info", lines.append)
    return lines


def test_the_estimate_is_logged_and_the_flag_is_the_limit(make_cfg, logged, monkeypatch):
    """--max-memory, in 10^9 bytes."""
    monkeypatch.setattr(memory, "held_bytes", lambda device: 50 * 10**9)
    cfg = train.setup_cfg(train.parse_args(["--max-memory", "123.5", "--trainer", "ALIGN"]))
    speed.configure_speed(build("ALIGN"), cfg, "cpu")
    (line,) = logged
    assert re.match(r"Memory of a training step: [\d.]+ GB estimated \(held 50.00, .*; 3 of 3 classes", line)
    with pytest.raises(ValueError, match="with one class at a time, more than the 49.90 GB allowed"):
        speed.configure_speed(build("ALIGN"), make_cfg("TRAIN.MAX_MEMORY_GB", 49.9), "cpu")


@pytest.mark.parametrize(
    "key, value, message",
    [("MAX_MEMORY_GB", -1.0, "-1.0; allowed: 0"), ("COMPILE", "inductr", "did you mean 'inductor'")],
)
def test_wrong_settings(make_cfg, key, value, message):
    with pytest.raises(ValueError, match=f"TRAIN.{key} is .*{message}"):
        speed.configure_speed(build("CoOp"), make_cfg(f"TRAIN.{key}", value), "cpu")


def test_a_batch_is_divided_among_processes(make_cfg, monkeypatch, logged):
    seen = []
    monkeypatch.setattr(speed, "processes", lambda: 4)
    monkeypatch.setattr(speed, "configure_memory", lambda model, images, *rest: seen.append(images))
    speed.configure_speed(build("CoOp"), make_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", 6), "cpu")
    assert seen == [2]  # of 6 images


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ALIGN", pytest.param("MMP", marks=pytest.mark.long)])
@torch._dynamo.config.patch(RECOMPILED_WITHOUT_END)
def test_compiled_blocks_are_exact_and_not_recompiled_without_end(make_cfg, method, logged):
    """Both towers, both passes, with other numbers of classes and images."""
    torch._dynamo.reset()
    for classes, images in ((3, 2), (5, 3), (4, 4)):
        eager, compiled = (relearn(build(method, classnames=CLASSES[:classes]), std=0.05) for _ in range(2))
        speed.configure_speed(compiled, make_cfg("TRAIN.COMPILE", "eager"), "cpu")
        assert compiled.text_encoder.functions is compiled.image_encoder.functions is not eager.text_encoder.functions
        values = []
        for model in (eager, compiled):
            pictures, labels = draw_images(tiny_vit(), images), torch.arange(images) % classes
            loss, logits = model.train().training_loss(pictures, labels)
            loss.backward()
            with torch.no_grad():
                scored = model.eval()(pictures)
            values.append([logits.detach(), scored, *(t.grad for t in learned_state(model).values())])
        torch.testing.assert_close(*values, atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()
