"""Outputs and gradients of both towers equal those of whole prompts and whole images through open_clip's blocks."""

from __future__ import annotations

import copy
from functools import partial

import open_clip
import pytest
import torch
from open_clip.transformer import LayerScale
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from prompting.clip import (
    PromptTokens,
    TextEncoder,
    VisionEncoder,
    load_clip,
    token_set_mask,
    tokenize_prompts,
    tokenize_texts,
)
from prompting.clip.blocks import compile_functions
from prompting.clip.layout import lay_out
from tests.reference import clip_whole
from tests.reference.saved import saved_bytes

NAMES = ["cat", "yin_yang", "golden retriever", "Boeing 737-800", "dog"]
TIGHT = {"atol": 1e-10, "rtol": 1e-8}
WIDTH = 64  # d_l of the drawn CLIP; its d_v is twice that


def draw(stream: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


def leaves(values: list[Tensor | None]) -> list[Tensor | None]:
    return [None if value is None else value.clone().requires_grad_() for value in values]


def pulled(out: tuple, values: list[Tensor | None], mask: Tensor | None = None) -> list[Tensor]:
    """Gradients of a fixed random weighting of the outputs, those of masked tokens left out."""
    stream, total = torch.Generator().manual_seed(11), torch.zeros((), dtype=torch.float64)
    for i, part in enumerate(out):
        weights = draw(stream, *part.shape)
        if i == 1 and mask is not None:
            weights = weights * mask.unsqueeze(-1)
        total = total + (part * weights).sum()
    return list(torch.autograd.grad(total, [v for v in values if v is not None]))


def compare_text(
    model: nn.Module,
    tokens: PromptTokens,
    values: list[Tensor | None],
    token_set: Tensor | None = None,
    **attributes: int | None,
) -> None:
    """Compare outputs and gradients of an encoder, with these attributes set, to whole prompts."""
    encoder, results = TextEncoder(model), []
    for name, value in attributes.items():
        setattr(encoder, name, value)
    for run in (encoder, partial(clip_whole.text, model)):
        own = leaves(values)
        out = run(tokens, own[0], own[1:], token_set=token_set)
        grads = pulled(out[: 1 if token_set is None else 2], own, out.mask) if any(v is not None for v in own) else []
        results.append((out, grads))
    (ours, our_grads), (whole, whole_grads) = results
    torch.testing.assert_close(ours.prompt, whole.prompt, **TIGHT)
    torch.testing.assert_close(our_grads, whole_grads, **TIGHT)
    if token_set is not None:
        assert (ours.mask is None) == (whole.mask is None)
        valid = torch.ones(ours.tokens.shape[:3], dtype=torch.bool) if ours.mask is None else ours.mask
        assert whole.mask is None or torch.equal(ours.mask, whole.mask)
        torch.testing.assert_close(ours.tokens[valid], whole.tokens[valid], **TIGHT)
        assert ours.tokens.shape[2] == int(token_set.sum(-1).max())


# -- text: shared prefixes, groups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("prefixes", [None, ["a photo of a", "", "one big"]])
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("reading", [None, "paper", "released"])
def test_shared_prefix_is_exact(
    vit: nn.Module,
    stream: torch.Generator,
    position: str,
    prefixes: list[str] | None,
    depth: int,
    reading: str | None,
) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=prefixes, position=position, clip_model=vit)
    values: list[Tensor | None] = [draw(stream, 3, 2, WIDTH) for _ in range(depth)] or [None]
    compare_text(vit, tokens, values, None if reading is None else token_set_mask(tokens, reading))


@pytest.mark.parametrize("classes_at_once", [None, 1, 2])
def test_class_specific_and_shorter_deep_prompts(
    vit: nn.Module, stream: torch.Generator, classes_at_once: int | None
) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=3, prefixes=["", "one big red"], clip_model=vit)
    values = [draw(stream, 2, len(NAMES), 3, WIDTH), draw(stream, 1, 2, WIDTH), draw(stream, 2, len(NAMES), 1, WIDTH)]
    token_set = token_set_mask(tokens, "released")
    compare_text(vit, tokens, values, token_set, classes_at_once=classes_at_once)
    assert len(lay_out(tokens, 2, class_specific=True).prefix.ids) == 2  # only SOS is the same for all classes


def test_deep_prompts_without_a_context(vit: nn.Module, stream: torch.Generator) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a"], clip_model=vit)
    compare_text(vit, tokens, [None, draw(stream, 3, 2, WIDTH)], token_set_mask(tokens))


@pytest.mark.parametrize("names", [["cat"], ["cat", "cat"], ["cat", "cat nap"]])
def test_names_that_are_prefixes_of_one_another(vit: nn.Module, stream: torch.Generator, names: list[str]) -> None:
    tokens = tokenize_prompts(names, n_ctx=2, prefixes=["", ""], clip_model=vit)
    compare_text(vit, tokens, [draw(stream, 2, 2, WIDTH)], token_set_mask(tokens))
    plain = tokenize_texts(names, clip_model=vit)
    compare_text(vit, plain, [None])
    start, results = [draw(stream, 2, 2, WIDTH)], []
    for constant in (False, True):
        own = leaves(start)
        out = TextEncoder(vit)(tokens, own[0], token_set=token_set_mask(tokens), detach_tokens=constant)
        results.append((out.prompt, out.tokens, pulled(out[:1], own)))
    torch.testing.assert_close(*results, **TIGHT)


def test_gradient_of_the_shared_prefix_is_a_finite_difference(vit: nn.Module, stream: torch.Generator) -> None:
    tokens, encoder = tokenize_prompts(NAMES, n_ctx=1, prefixes=["a big", ""], clip_model=vit), TextEncoder(vit)
    context, deep = draw(stream, 2, 1, WIDTH).requires_grad_(), [draw(stream, 2, 1, WIDTH).requires_grad_()]
    direction, step = [draw(stream, 2, 1, WIDTH) for _ in range(2)], 1e-5

    def value(t: float) -> Tensor:
        out = encoder(tokens, context + t * direction[0], [deep[0] + t * direction[1]], return_tokens=True)
        return out.prompt.sin().sum() + out.tokens.sin().sum()

    slope = sum((g * d).sum() for g, d in zip(torch.autograd.grad(value(0.0), [context, *deep]), direction))
    with torch.no_grad():
        assert slope.item() == pytest.approx(((value(step) - value(-step)) / (2 * step)).item(), rel=1e-6)


def test_positions_run(vit: nn.Module) -> None:
    """SOS and the fixed words once a prompt; name, stop and EOS once a class and prompt, without padding."""
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=vit)
    lengths = tokens.words.sum(-1) + 2  # (N, K)
    for at_once in (None, 1, 2):
        assert lay_out(tokens, 2, classes_at_once=at_once).positions == (5 + 3) + 2 + int(lengths.sum())
    assert lay_out(tokens, 2, share_prefix=False).positions == tokens.ids.numel()


def test_prompts_without_a_common_start_run_whole(vit: nn.Module) -> None:
    tokens = tokenize_texts(["cat", "dog"], clip_model=vit)
    tokens.ids[0, 0, 0] = 5
    assert lay_out(tokens, 1).prefix is None
    compare_text(vit, tokens, [None])


# -- blocks of other makes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_layer_scale_and_gelu(vit: nn.Module, stream: torch.Generator, scaled: bool) -> None:
    for transformer in (vit.transformer, vit.visual.transformer):
        for block in transformer.resblocks:
            block.mlp.gelu = nn.GELU()
            if scaled:
                block.ls_1, block.ls_2 = (LayerScale(transformer.width, 0.3).double() for _ in range(2))
    vit.requires_grad_(False)
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["", "one big"], clip_model=vit)
    compare_text(vit, tokens, [draw(stream, 2, 2, WIDTH), draw(stream, 2, 2, WIDTH)], token_set_mask(tokens))
    compare_vision(vit, draw(stream, 2, 3, 12, 12), [draw(stream, 2, 2, 2 * WIDTH)], True)


def test_custom_attention_and_hooks_run_whole_blocks(vit: nn.Module, stream: torch.Generator) -> None:
    config = {"context_length": 20, "width": 32, "heads": 2, "layers": 2, "vocab_size": 49408}
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 12}
    custom = open_clip.CLIP(16, {**vision, "qk_norm": True}, {**config, "qk_norm": True}).double().eval()
    custom = load_clip(custom)
    tokens = tokenize_prompts(NAMES, n_ctx=2, clip_model=custom)
    assert TextEncoder(custom).layout(tokens, [None], None).prefix is None
    compare_text(custom, tokens, [draw(stream, 2, 2, 32)], token_set_mask(tokens))
    compare_vision(custom, draw(stream, 2, 3, 12, 12), [draw(stream, 2, 2, 32)], True)

    called: list[int] = []
    handle = vit.transformer.resblocks[1].mlp.register_forward_hook(lambda *_: called.append(1))
    encoder, tokens = TextEncoder(vit), tokenize_prompts(NAMES, n_ctx=2, clip_model=vit)
    hooked = encoder(tokens, draw(stream, 1, 2, WIDTH)).prompt
    handle.remove()
    assert called and hooked.shape == encoder(tokens, draw(stream, 1, 2, WIDTH)).prompt.shape and len(called) == 1


# -- memory: some classes at a time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes_at_once", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("reading", [None, "paper", "released"])
def test_parts_of_the_classes_are_exact(
    vit: nn.Module, stream: torch.Generator, classes_at_once: int, reading: str | None
) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=vit)
    values = [draw(stream, 2, 2, WIDTH) for _ in range(2)]
    token_set = None if reading is None else token_set_mask(tokens, reading)
    compare_text(vit, tokens, values, token_set, classes_at_once=classes_at_once)


def test_memory_does_not_grow_with_the_classes(vit: nn.Module, stream: torch.Generator) -> None:
    """What waits for the backward pass, beside the outputs: one part's worth, or next to nothing."""
    sizes = {}
    for classes, at_once in ((8, None), (32, None), (8, 4), (32, 4)):
        encoder = TextEncoder(vit)
        encoder.classes_at_once = at_once
        tokens = tokenize_prompts([f"cat number {i % 7} {i}" for i in range(classes)], n_ctx=2, clip_model=vit)
        context = draw(stream, 2, 2, WIDTH).requires_grad_()
        sizes[classes, at_once] = saved_bytes(lambda e=encoder, t=tokens, c=context: e(t, c).prompt, encoder)
    assert sizes[32, None] > 3 * sizes[8, None]
    assert sizes[32, 4] < 0.2 * sizes[32, None]
    # The prefixes' own blocks are saved once; a further part adds its indices.
    assert sizes[32, 4] - sizes[8, 4] < 0.1 * sizes[32, None]


# -- vision ----------------------------------------------------------------------------------------------------------


def compare_vision(
    model: nn.Module, images: Tensor, values: list[Tensor | None], return_tokens: bool, recompute_blocks: int = 0
) -> None:
    """Compare outputs and gradients of an encoder to whole images."""
    encoder, results = VisionEncoder(model), []
    encoder.recompute_blocks = recompute_blocks
    for run in (partial(encoder, return_tokens=return_tokens), partial(clip_whole.images, model)):
        own = leaves(values)
        out = run(images, own[0], own[1:])[: 1 + return_tokens]
        results.append((out, pulled(out, own) if own[0] is not None else []))
    torch.testing.assert_close(*results, **TIGHT)


@pytest.mark.parametrize("return_tokens", [False, True])
@pytest.mark.parametrize("numbers", [[], [1], [3], [2, 2, 2], [3, 1, 3]])
def test_vision_is_exact(vit: nn.Module, stream: torch.Generator, numbers: list[int], return_tokens: bool) -> None:
    values: list[Tensor | None] = [draw(stream, m, 2, 2 * WIDTH) for m in numbers] or [None]
    compare_vision(vit, draw(stream, 2, 3, 12, 12), values, return_tokens)


@pytest.mark.parametrize("return_tokens", [False, True])
def test_shorter_deep_visual_prompts(vit: nn.Module, stream: torch.Generator, return_tokens: bool) -> None:
    values = [draw(stream, 2, 3, 2 * WIDTH), draw(stream, 2, 1, 2 * WIDTH), draw(stream, 1, 3, 2 * WIDTH)]
    compare_vision(vit, draw(stream, 2, 3, 12, 12), values, return_tokens)


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("return_tokens", [False, True])
def test_evaluation_in_parts_of_the_images_is_exact(
    vit: nn.Module, stream: torch.Generator, monkeypatch: pytest.MonkeyPatch, at_once: int, return_tokens: bool
) -> None:
    images, prompts, sizes = draw(stream, 5, 3, 12, 12), draw(stream, 2, 2, 2 * WIDTH), []
    monkeypatch.setattr("prompting.clip.vision.ROWS_AT_ONCE", at_once * 2 * 10)  # two prompts, CLS and nine patches
    vit.visual.conv1.register_forward_hook(lambda _, args, out: sizes.append(len(args[0])))
    with torch.no_grad():
        out = VisionEncoder(vit)(images, prompts, return_tokens=return_tokens)
    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 5: [5]}[at_once]
    whole = clip_whole.images(vit, images, prompts)
    torch.testing.assert_close(out[: 1 + return_tokens], whole[: 1 + return_tokens], **TIGHT)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_recomputed_vision_blocks_are_exact_and_keep_their_inputs_only(
    vit: nn.Module, stream: torch.Generator, number: int
) -> None:
    images, values = draw(stream, 2, 3, 12, 12), [draw(stream, 2, 2, 2 * WIDTH) for _ in range(2)]
    compare_vision(vit, images, values, True, number)
    kept = []
    for blocks in (0, number):
        encoder, own = VisionEncoder(vit), leaves(values)
        encoder.recompute_blocks = blocks
        kept.append(saved_bytes(lambda e=encoder, v=own: e(images, v[0], v[1:], return_tokens=True).tokens, vit))
    row = 2 * WIDTH * 8
    # A block keeps 10 widths a position and recomputed its input alone; the first block's prompts are replaced.
    assert kept[0] - kept[1] == pytest.approx(9 * row * 2 * 2 * 12 * number, rel=0.15)


@pytest.mark.parametrize("reading", [None, "paper", "released"])
@pytest.mark.parametrize("number", [1, 3])
def test_recomputed_text_blocks_are_exact_and_keep_less(
    vit: nn.Module, stream: torch.Generator, number: int, reading: str | None
) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=vit)
    token_set = None if reading is None else token_set_mask(tokens, reading)
    values = [draw(stream, 2, 2, WIDTH) for _ in range(2)]
    compare_text(vit, tokens, values, token_set, recompute_blocks=number)
    compare_text(vit, tokens, values, token_set, recompute_blocks=number, classes_at_once=2)
    kept = []
    for blocks in (0, number):
        encoder, own = TextEncoder(vit), leaves(values)
        encoder.recompute_blocks = blocks
        kept.append(saved_bytes(lambda e=encoder, v=own: e(tokens, v[0], v[1:]).prompt, vit))
    assert kept[1] < (1 - 0.2 * min(number, 2)) * kept[0]


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_detached_tokens_keep_less(vit: nn.Module, stream: torch.Generator, reading: str) -> None:
    """The same outputs in both towers; gradients are those of CLS and EOS."""
    images, values = draw(stream, 2, 3, 12, 12), [draw(stream, 2, 2, 2 * WIDTH) for _ in range(2)]
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=vit)
    words, token_set = [draw(stream, 2, 2, WIDTH) for _ in range(2)], token_set_mask(tokens, reading)
    for encoder, run, start in (
        (VisionEncoder(vit), lambda e, v, **k: e(images, v[0], v[1:], return_tokens=True, **k), values),
        (TextEncoder(vit), lambda e, v, **k: e(tokens, v[0], v[1:], token_set=token_set, **k), words),
    ):
        outs, grads, kept = [], [], []
        for detach in (False, True):
            own = leaves(start)
            outs.append(run(encoder, own, detach_tokens=detach))
            grads.append(pulled(outs[-1][:1], own))
            kept.append(saved_bytes(lambda d=detach, e=encoder, v=own, r=run: r(e, v, detach_tokens=d).prompt, vit))
        assert outs[0].tokens.requires_grad and not outs[1].tokens.requires_grad
        torch.testing.assert_close(outs[0][:2], (outs[1].prompt, outs[1].tokens), **TIGHT)
        torch.testing.assert_close(*grads, **TIGHT)
        assert kept[1] < 0.9 * kept[0]


def test_patches_take_no_gradient_work(vit: nn.Module, stream: torch.Generator) -> None:
    """Nothing is recorded before prompts meet patches: no node of the graph leads to the patch embedding."""
    images, prompts = draw(stream, 2, 3, 12, 12), draw(stream, 2, 2, 2 * WIDTH).requires_grad_()
    seen, todo = set(), [VisionEncoder(vit)(images, prompts).prompt.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [next_node for next_node, _ in node.next_functions]
    names = [node.name() for node in seen]
    assert not any("Convolution" in name for name in names)
    assert sum("LayerNorm" in name for name in names) == 3 * 2 + 2  # two a block, of the prompts' own ln_pre, ln_post


def test_positions_before_the_last_block_only(vit: nn.Module, stream: torch.Generator) -> None:
    """Without tokens the last block's MLP sees CLS alone; replaced prompts skip the MLP before."""
    rows: list[int] = []
    encoder, prompts = VisionEncoder(vit), [draw(stream, 2, 2, 2 * WIDTH) for _ in range(3)]
    for block in vit.visual.transformer.resblocks:
        block.ln_2.register_forward_hook(lambda _, args, out: rows.append(out.shape[1]))
    encoder(draw(stream, 1, 3, 12, 12), prompts[0], prompts[1:])
    assert rows == [10, 10, 1]


# -- half precision and compilation ----------------------------------------------------------------------------------


def test_autocast_is_as_near_to_float32_as_whole_blocks(vit: nn.Module, stream: torch.Generator) -> None:
    """Outputs and gradients of both towers."""
    model = vit.float()
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=model)
    images, values = draw(stream, 2, 3, 12, 12).float(), [draw(stream, 2, 2, WIDTH * i).float() for i in (1, 2)]
    whole = partial(clip_whole.text, model), partial(clip_whole.images, model)

    def run(text, vision, half: bool) -> list[Tensor]:
        own = leaves(values)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            out = [text(tokens, own[0]).prompt.float(), vision(images, own[1]).prompt.float()]
        return [*(part.detach() for part in out), *torch.autograd.grad(sum(part.sin().sum() for part in out), own)]

    exact, usual, ours = run(*whole, False), run(*whole, True), run(TextEncoder(model), VisionEncoder(model), True)
    for true, theirs, our in zip(exact, usual, ours):
        error, expected = ((x - true).norm() / true.norm() for x in (our, theirs))
        assert 0 < error < 1.3 * expected < 0.1


def test_compiled_functions_survive_other_class_counts(vit: nn.Module, stream: torch.Generator) -> None:
    torch._dynamo.reset()
    counter, model = CompileCounter(), copy.deepcopy(vit)
    text, context = TextEncoder(model), draw(stream, 2, 2, WIDTH)
    plain = TextEncoder(vit)
    text.functions, counts = compile_functions(counter), []
    for classes in (3, 5, 4, 2):
        tokens = tokenize_prompts(NAMES[:classes], n_ctx=2, clip_model=vit)
        torch.testing.assert_close(text(tokens, context).prompt, plain(tokens, context).prompt, **TIGHT)
        counts.append(counter.frame_count)
    assert counts[0] > 0 and counts[1:] == counts[:1] * 3
    torch._dynamo.reset()


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("number", [0, 3])
def test_compiled_functions_with_gradients(
    vit: nn.Module, stream: torch.Generator, number: int, constant: bool
) -> None:
    """Compiled and not: outputs, gradients of CLS, and outputs where nothing is recorded."""
    torch._dynamo.reset()
    images, values = draw(stream, 2, 3, 12, 12), [draw(stream, 2, 2, 2 * WIDTH) for _ in range(2)]
    results = []
    for backend in (None, "aot_eager"):
        encoder = VisionEncoder(copy.deepcopy(vit))
        encoder.recompute_blocks = number
        encoder.functions = encoder.functions if backend is None else compile_functions(backend)
        own = leaves(values)
        out = encoder(images, own[0], own[1:], return_tokens=True, detach_tokens=constant)
        gradients = pulled(out[:1], own)
        with torch.no_grad():
            still = encoder(images, own[0], own[1:], return_tokens=True)
        results.append((out.prompt, out.tokens, gradients, still.prompt, still.tokens))
    torch.testing.assert_close(*results, **TIGHT)
    torch._dynamo.reset()
