"""Predicted memory against what autograd keeps, and the choice of how many classes run at once."""

from __future__ import annotations

import mmap
import subprocess
import sys

import pytest
import torch
from torch import nn

from prompting import memory
from prompting.clip import TextEncoder, VisionEncoder, load_clip, token_set_mask, tokenize_prompts
from prompting.clip.formats import build_clip
from prompting.clip.vision import CACHED
from prompting.learners import Prompts
from tests.reference.clip_states import vit_state
from tests.reference.saved import saved_bytes

WIDTH = 128


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    return load_clip(build_clip(vit_state(d_v=2 * WIDTH, d_l=WIDTH, vision_layers=4, text_layers=4, grid=4), "drawn"))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)).requires_grad_()


def case(clip: nn.Module, classes: int, position: str = "end"):
    names = [f"cat {'nap ' * (i % 3)}{i}" for i in range(classes)]
    tokens = tokenize_prompts(names, n_ctx=2, prefixes=["a photo of a", ""], position=position, clip_model=clip)
    prompts = Prompts(drawn(2, 2, WIDTH), [drawn(2, 2, WIDTH)], drawn(2, 2, 2 * WIDTH), [drawn(2, 2, 2 * WIDTH)])
    return tokens, prompts


@pytest.mark.parametrize("position", ["end", "middle"])
@pytest.mark.parametrize("classes, at_once", [(24, None), (24, 6)])
def test_prediction_is_what_autograd_keeps(clip: nn.Module, classes: int, at_once: int | None, position: str) -> None:
    tokens, prompts = case(clip, classes, position)
    text, vision, token_set = TextEncoder(clip), VisionEncoder(clip), token_set_mask(tokens)
    text.classes_at_once = at_once
    found = memory.predict(text, vision, tokens, prompts, 3, token_set=token_set, classes_at_once=at_once)
    images = torch.randn(3, 3, 16, 16)
    seen = saved_bytes(lambda: vision(images, prompts.visual, prompts.deep_visual, return_tokens=True).tokens, vision)
    assert found.parts["vision"] == pytest.approx(seen, rel=0.15)
    if at_once is None:
        read = saved_bytes(lambda: text(tokens, prompts.text, prompts.deep_text, token_set=token_set).tokens, text)
        assert found.parts["text"] == pytest.approx(read, rel=0.15)
    else:
        whole = memory.predict(text, vision, tokens, prompts, 3, token_set=token_set)
        assert found.parts["text"] < 0.5 * whole.parts["text"] and found.total < whole.total


def test_nothing_waits_where_nothing_is_learned(clip: nn.Module) -> None:
    tokens, _ = case(clip, 4)
    found = memory.predict(TextEncoder(clip), VisionEncoder(clip), tokens, Prompts(), 2)
    assert found.parts["text"] == found.parts["vision"] == 0
    weights = sum(p.numel() for p in clip.parameters() if p is not clip.logit_scale) * 4
    assert found.parts["weights"] == weights


def test_fit_takes_the_most_classes_that_fit(clip: nn.Module) -> None:
    tokens, prompts = case(clip, 40)
    text, vision = TextEncoder(clip), VisionEncoder(clip)
    sizes = {k: memory.predict(text, vision, tokens, prompts, 1, classes_at_once=k).total for k in (40, 20, 10, 1)}
    assert sizes[40] > sizes[20] > sizes[10] > sizes[1]
    for most in (40, 20, 10):
        found = memory.fit(text, vision, tokens, prompts, 1, budget=sizes[most])
        assert found.classes_at_once == most and found.total == sizes[most] <= found.budget
        assert f"{most} of 40 classes at once" in str(found) and ("recomputed" in str(found)) == (most < 40)
    least = memory.predict(text, vision, tokens, prompts, 1, classes_at_once=1, lean=4).total
    assert memory.fit(text, vision, tokens, prompts, 1, budget=least).total == least
    with pytest.raises(ValueError, match="with one class at a time, more than the .* GB allowed"):
        memory.fit(text, vision, tokens, prompts, 1, budget=least - 1)
    assert memory.fit(text, vision, tokens, prompts, 1, budget=1, strict=False).classes_at_once == 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("images", [1, 16])
def test_fit_computes_the_least_again(clip: nn.Module, images: int, share: float) -> None:
    """Against every choice that there is: what fits the budget, and of that the least that is computed again."""
    tokens, prompts = case(clip, 40)
    text, vision = TextEncoder(clip), VisionEncoder(clip)
    every = [
        memory.predict(text, vision, tokens, prompts, images, classes_at_once=k, lean=lean)
        for k in (40, 20, 10, 5, 3, 2, 1)
        for lean in range(5)
    ]
    least, most = (pick(every, key=lambda one: one.total).total for pick in (min, max))
    budget = least + int(share * (most - least))
    found = memory.fit(text, vision, tokens, prompts, images, budget=budget)
    assert found.total <= budget
    assert found.again == min(one.again for one in every if one.total <= budget)
    assert ("hidden layers of" in str(found)) == (found.lean > 0)


def test_wider_hidden_layers_keep_more() -> None:
    """As in ViT-g/14 and ViT-bigG/14, whose MLPs are not four times as wide."""
    made = load_clip(build_clip(vit_state(d_v=2 * WIDTH, d_l=WIDTH, grid=4, mlp=7), "drawn"))
    tokens, prompts = case(made, 24)
    text, vision, images = TextEncoder(made), VisionEncoder(made), torch.randn(3, 3, 16, 16)
    token_set = token_set_mask(tokens)
    found = memory.predict(text, vision, tokens, prompts, 3, token_set=token_set)
    seen = saved_bytes(lambda: vision(images, prompts.visual, prompts.deep_visual, return_tokens=True).tokens, vision)
    read = saved_bytes(lambda: text(tokens, prompts.text, prompts.deep_text, token_set=token_set).tokens, text)
    assert found.parts["vision"] == pytest.approx(seen, rel=0.15)
    assert found.parts["text"] == pytest.approx(read, rel=0.15)
    assert vision.images_at_once(2) == CACHED // (2 * 17 * 2 * WIDTH * 7 * 4)


@pytest.mark.parametrize("mlp", [4, 7])
@pytest.mark.parametrize("at_once", [None, 6])
def test_memory_that_blocks_share_is_predicted(monkeypatch: pytest.MonkeyPatch, at_once: int | None, mlp: int) -> None:
    """Of both towers, as it is after a step."""
    clip = load_clip(build_clip(vit_state(d_v=2 * WIDTH, d_l=WIDTH, grid=4, mlp=mlp), "drawn"))
    monkeypatch.setattr(memory, "PASSING", 0)
    tokens, prompts = case(clip, 24)
    text, vision = TextEncoder(clip), VisionEncoder(clip)
    text.classes_at_once = at_once
    found = memory.predict(text, vision, tokens, prompts, 3, classes_at_once=at_once)
    images = torch.randn(3, 3, 16, 16)
    seen = vision(images, prompts.visual, prompts.deep_visual, return_tokens=True).tokens
    (seen.sum() + text(tokens, prompts.text, prompts.deep_text).prompt.sum()).backward()
    held = sum(x.nbytes for tower in (text, vision) for x in tower._scratch._held.values())
    assert found.parts["at work"] == pytest.approx(held, rel=0.15) and held > 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it holds")
def test_freed_memory_is_returned() -> None:
    """In a process of its own: tensors of odd sizes come and go, and what is held falls back to what it was."""
    program = (
        "import torch; from prompting import memory\n"
        "torch.ones(2**22); before = memory.private_bytes()\n"  # glibc draws its conclusions from what is freed
        "kept = [[torch.ones(2**19 + 97 * i), torch.ones(2**14)] for i in range(100)]\n"
        "held = memory.private_bytes(); kept = [pair[1] for pair in kept]\n"
        "memory.return_freed(above=held); still = memory.private_bytes()\n"
        "memory.return_freed(above=before)\n"
        "print(memory.private_bytes() - before, still - before, held - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after, still, held = map(int, done.stdout.split())
    assert held > 200e6 and after < 0.15 * held
    assert still > 0.5 * held  # no more was held than might be


def test_held_and_free_are_real() -> None:
    size, before = 64 << 20, memory.held_bytes()
    with mmap.mmap(-1, size) as block:  # fresh pages, where an allocator could give back old ones
        block.write(b"\1" * size)
        assert memory.held_bytes() - before == pytest.approx(size, rel=0.2)
    assert memory.free_bytes() > size


def test_shared_memory_is_not_private() -> None:
    size, before = 64 << 20, memory.private_bytes()
    with mmap.mmap(-1, size) as block:  # shared with processes that are forked
        block.write(b"\1" * size)
        assert memory.private_bytes() - before < 0.2 * size
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"\1" * size)
        assert memory.private_bytes() - before == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("controllers", memory.GROUP_FILES)
@pytest.mark.parametrize("group", [".", "slurm", "slurm/job_7/step_0"])
@pytest.mark.parametrize("limit, left", [("5000", 3300), ("max", None), ("100", 0)])
def test_a_control_group_leaves_less(tmp_path, monkeypatch, controllers, group, limit, left) -> None:
    """The process's own, one above it (batch systems), or the topmost (containers); files that are only kept in memory
    can go."""
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "cgroup")
    lines = {"": "0::/slurm/job_7/step_0", "memory": "9:cpu:/other\n4:memory,hugetlb:/slurm/job_7/step_0\n0::/"}
    (tmp_path / "cgroup").write_text(lines[controllers] + "\n")
    whole = memory.free_bytes()
    folder, *names = memory.GROUP_FILES[controllers]
    there = tmp_path / folder / group
    there.mkdir(parents=True, exist_ok=True)
    stat = "anon 1700\ninactive_file 200\nactive_file 100"
    for name, text in zip((*names, "memory.stat"), (limit, "2000", stat)):
        (there / name).write_text(text + "\n")
    assert memory.free_bytes() == (pytest.approx(whole, rel=0.2) if left is None else left)


def test_peak() -> None:
    size, before = 96 << 20, memory.peak_bytes()
    with mmap.mmap(-1, size) as block:
        block.write(b"\1" * size)
        assert memory.peak_bytes() >= max(before, memory.held_bytes() - (8 << 20))
    assert memory.peak_bytes() >= memory.held_bytes()


def test_a_system_that_says_nothing(clip: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: no limit, and what is unknown is called so."""
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(memory.Path, "is_file", lambda path: False)
    monkeypatch.delattr(memory.os, "sysconf_names", raising=False)
    assert memory.free_bytes() is memory.held_bytes() is memory.private_bytes() is memory.peak_bytes() is None
    tokens, prompts = case(clip, 40)
    found = memory.fit(TextEncoder(clip), VisionEncoder(clip), tokens, prompts, 1, budget=None, held=None)
    assert found.classes_at_once == 40 and "weights" in found.parts and " of " not in str(found).split("(")[0]


def test_it_imports_without_resource() -> None:
    program = "import sys; sys.modules['resource'] = None; from prompting import memory; print(memory.resource)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "None\n"
    )
