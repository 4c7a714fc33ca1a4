"""The estimate against what autograd keeps and what a FLOP counter counts; plans that keep to a limit."""

import importlib.util
import mmap
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prompting import memory, process
from prompting.checkpoint import learned_state
from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from prompting.memory import configure_memory, plan_memory
from tests.reference.clip_states import vit_state
from tests.reference.doc_commands import PROJECT
from tests.reference.methods import METHODS, build, draw_images, relearn
from tests.reference.saved import saved_bytes

CLASSES = [f"cat {'nap ' * (i % 3)}{i}" for i in range(24)]
SIZES = {"d_v": 256, "d_l": 128, "embed": 64, "vision_layers": 4, "text_layers": 4, "grid": 4}
LABELS = torch.tensor([0, 17, 5])
COSTS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *a, **k: 0}  # attention is not estimated
COSTS[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward] = COSTS[next(iter(COSTS))]


@pytest.fixture(scope="module")
def clip():
    """Wide enough for activations to outweigh masks and indices."""
    return load_clip(build_clip(vit_state(**SIZES), "drawn"))


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr(memory, "held_bytes", lambda device: 0)


SMALL = {"ALIGN": ("TEXT_PROMPT_NUMBER", 2, "VISION_PROMPT_NUMBER", 2), "PLOT": ("N", 2)}


def align(clip, *words, method="ALIGN"):
    words = (*SMALL.get(method, ()), *words)
    return relearn(build(method, *words, clip=clip, classnames=CLASSES), std=0.05).train()


def step(model, images: int = 3):
    """Loss, logits and gradients of a step, from a fixed random state."""
    torch.manual_seed(3)
    loss, logits = model.training_loss(draw_images(model.clip, images), LABELS[:images])
    gradients = torch.autograd.grad(loss, list(learned_state(model).values()), allow_unused=True)
    return loss.detach(), logits.detach(), *(g for g in gradients if g is not None)


def chosen(model, limit: int):
    """A plan under a limit, and the bytes that autograd then keeps of the text and the vision tower."""
    plan = configure_memory(model, 3, limit, "cpu")
    prompts, images = model.prompt_learner(), draw_images(model.clip, 3)
    text, vision, more = model.text_encoder, model.image_encoder, {"detach_tokens": model.detach_tokens}
    read = partial(text, model.tokens, prompts.text, prompts.deep_text, token_set=model.token_set, **more)
    seen = partial(vision, images, prompts.visual, prompts.deep_visual, return_tokens=True, **more)
    return plan, saved_bytes(lambda: read().prompt, text), saved_bytes(lambda: seen().prompt, vision)


@pytest.mark.parametrize("mlp", [4, 7])  # MLPs of ViT-g/14 and ViT-bigG/14 are not four times as wide
def test_the_estimate_is_what_autograd_keeps(mlp):
    clip = load_clip(build_clip(vit_state(**SIZES, mlp=mlp), "drawn"))
    plan, read, seen = chosen(align(clip), 0)
    assert plan.parts["text"] == pytest.approx((1 + memory.SLACK) * read, rel=0.15)
    assert plan.parts["vision"] == pytest.approx((1 + memory.SLACK) * seen, rel=0.15)


@pytest.mark.parametrize("share", [0.95, 0.7, 0.4])
def test_a_limit_is_kept_and_changes_no_result(clip, share):
    model = align(clip)
    whole, read, seen = chosen(model, 0)
    expected = step(model)
    plan, less_read, less_seen = chosen(model, int(share * whole.total))
    assert plan.total <= share * whole.total and plan.recompute_flops > 0
    assert less_read + less_seen < 1.1 * share * (read + seen)
    torch.testing.assert_close(step(model), expected, atol=1e-5, rtol=1e-4)


def test_more_memory_never_recomputes_more(clip):
    model = align(clip)
    plans = plan_memory(model, 3)
    least, most = min(plan.total for plan in plans), max(plan.total for plan in plans)
    found = [configure_memory(model, 3, limit, "cpu") for limit in range(least, most, (most - least) // 9)]
    assert [plan.recompute_flops for plan in found] == sorted((p.recompute_flops for p in found), reverse=True)
    assert found[0].classes_at_once < found[-1].classes_at_once == 24
    with pytest.raises(ValueError, match="with one class at a time, more than the .* GB allowed"):
        configure_memory(model, 3, least - 1, "cpu")


@pytest.mark.parametrize("text, vision", [(0, 3), (3, 0), (2, 2)])
def test_recomputed_blocks_cost_what_is_estimated(clip, text, vision):
    """Against counted FLOPs, without those of attention: two a multiply-add."""
    model = align(clip, "BETA", 0.0)
    counts = []
    for blocks in ((0, 0), (text, vision)):
        model.text_encoder.recompute_blocks, model.image_encoder.recompute_blocks = blocks
        with FlopCounterMode(display=False, custom_mapping=COSTS) as counter:
            model.training_loss(draw_images(clip, 3), LABELS)[0].backward()
        counts.append(counter.get_total_flops())
    plans = {(p.classes_at_once, p.text_blocks, p.vision_blocks): p for p in plan_memory(model, 3)}
    plan = plans[24, text, vision]
    assert 2 * plan.recompute_flops == pytest.approx(counts[1] - counts[0], rel=0.25)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_has_a_plan(clip, method):
    plan = configure_memory(align(clip, method=method), 3, 0, "cpu")
    if method == "CoCoOp":  # splits its classes itself
        assert plan is None
    else:
        assert (plan.parts["text"] > 0) == (method not in ("ZeroshotCLIP", "VPT", "TipAdapterF"))
        assert (plan.classes_at_once, plan.recompute_flops) == (24, 0)


@pytest.mark.parametrize("number", [8, 20])
def test_proda_keeps_what_is_estimated(clip, monkeypatch, number):
    """For the most expensive prompts of a step, those with the class name in front, and the nameless prompts."""
    model = align(clip, "N", number, "PROMPT_BATCH", 4, method="ProDA")
    monkeypatch.setattr(torch, "randperm", lambda size: torch.arange(size))
    plan = configure_memory(model, 3, 0, "cpu")
    kept = saved_bytes(lambda: model.training_loss(draw_images(clip, 3), LABELS), model.clip)
    assert plan.parts["text"] == pytest.approx((1 + memory.SLACK) * kept, rel=0.15)


def test_proda_in_chunks_is_proda(clip):
    model = align(clip, "N", 8, "PROMPT_BATCH", 4, method="ProDA")
    expected = step(model)
    plan = configure_memory(model, 3, min(plan.total for plan in plan_memory(model, 3)), "cpu")
    assert plan.classes_at_once < 24
    torch.testing.assert_close(step(model), expected, atol=1e-5, rtol=1e-4)


def test_processes_on_one_machine_share_its_memory(clip, monkeypatch):
    monkeypatch.setattr(memory, "processes", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    model = align(clip)
    least = min(plan.total for plan in plan_memory(model, 3))
    assert configure_memory(model, 3, 4 * least, "cpu").total == least
    with pytest.raises(ValueError, match="GB allowed"):
        configure_memory(model, 3, 4 * least - 4, "cpu")


def test_more_token_costs_take_more_working_memory(clip):
    """With many prompts, the token level of the transport is the largest part; it holds at least its float32 costs."""
    words = ("TEXT_PROMPT_NUMBER", 16, "VISION_PROMPT_NUMBER", 16)
    working = [plan_memory(align(clip, *words, "BETA", beta), 3)[0].parts["working"] for beta in (0.0, 1.0)]
    token_costs = 3 * 24 * 16 * 16 * (16 + 2) * 7  # images, classes, prompts, patches and visual prompts, text tokens
    assert working[1] > working[0] and working[1] > 4 * token_costs


def test_a_gpu_has_what_torch_reports_free(clip, monkeypatch):
    model = align(clip)
    whole = configure_memory(model, 3, 0, "cpu")
    for free, fits in ((int(whole.total / 0.9) + 1, True), (whole.total, False), (1, False)):  # a tenth stays free
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        plan = configure_memory(model, 3, 0, "cuda")
        assert (plan.recompute_flops == 0) == fits
    assert plan.total == min(p.total for p in plan_memory(model, 3))  # too little is not refused: nobody set a limit


def test_peak() -> None:
    size, before = 96 << 20, memory.peak_bytes()
    with mmap.mmap(-1, size) as block:
        block.write(b"\1" * size)
        assert memory.peak_bytes() >= before and memory.peak_bytes() > size
        code = "from prompting.process import peak_bytes; print(peak_bytes())"
        child = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, check=True)
    assert int(child.stdout) < size  # and does not start with the memory of its parent


def test_the_peak_where_the_system_reports_less(monkeypatch) -> None:
    """Without /proc (macOS), and without the module ``resource`` (Windows), where the peak is unknown."""
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert process.peak_bytes() > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    spec = importlib.util.find_spec("prompting.process")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.peak_bytes() is None
