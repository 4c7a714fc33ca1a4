"""What saves memory and time changes no output and no gradient: classes in chunks, recomputed blocks."""

from functools import partial

import pytest
import torch

from prompting.clip import TextEncoder, VisionEncoder, token_set_mask, tokenize_prompts
from tests.clip.conftest import NAMES, TIGHT, WIDTH, compare_text, compare_vision, draw, gradients, leaves
from tests.reference.saved import saved_bytes


@pytest.fixture
def tokens(vit):
    return tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=vit)


@pytest.fixture
def text_values(stream):
    return [draw(stream, 2, 2, WIDTH) for _ in range(2)]


@pytest.fixture
def visual_values(stream):
    return [draw(stream, 2, 2, 2 * WIDTH) for _ in range(2)]


@pytest.fixture
def images(stream):
    return draw(stream, 2, 3, 12, 12)


@pytest.mark.parametrize("classes_at_once", [1, 3])
@pytest.mark.parametrize("reading", [None, "paper", "released"])
def test_chunks_of_the_classes_are_exact(vit, tokens, text_values, classes_at_once, reading):
    token_set = None if reading is None else token_set_mask(tokens, reading)
    compare_text(vit, tokens, text_values, token_set, classes_at_once=classes_at_once)


def test_memory_does_not_grow_with_the_classes(vit, stream):
    """What is kept for the backward pass: the activations of one chunk."""
    sizes = {}
    for classes, at_once in ((8, None), (32, None), (8, 4), (32, 4)):
        encoder = TextEncoder(vit)
        encoder.classes_at_once = at_once
        many = tokenize_prompts([f"cat number {i % 7} {i}" for i in range(classes)], n_ctx=2, clip_model=vit)
        context = draw(stream, 2, 2, WIDTH).requires_grad_()
        sizes[classes, at_once] = saved_bytes(lambda e=encoder, t=many, c=context: e(t, c).prompt, encoder)
    assert sizes[32, None] > 3 * sizes[8, None]
    assert sizes[32, 4] < 0.2 * sizes[32, None]
    # The blocks of the prefixes are kept once; another chunk adds its indices.
    assert sizes[32, 4] - sizes[8, 4] < 0.1 * sizes[32, None]


@pytest.mark.parametrize("at_once", [1, 2])
def test_evaluation_in_parts_of_the_images_is_exact(vit, stream, monkeypatch, at_once):
    images, prompts, sizes = draw(stream, 5, 3, 12, 12), draw(stream, 2, 2, 2 * WIDTH), []
    encoder = VisionEncoder(vit)
    with torch.no_grad():
        whole = encoder(images, prompts, return_tokens=True)
        # Two prompts, CLS and nine patches.
        monkeypatch.setattr("prompting.clip.vision.POSITIONS_AT_ONCE", at_once * 2 * 10)
        vit.visual.conv1.register_forward_hook(lambda _, args, out: sizes.append(len(args[0])))
        parts = encoder(images, prompts, return_tokens=True)
    assert max(sizes) == at_once and sum(sizes) == 5
    torch.testing.assert_close(parts[:2], whole[:2], **TIGHT)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("classes_at_once", [None, 2])
def test_recomputed_blocks_are_exact(vit, tokens, images, text_values, visual_values, number, classes_at_once):
    """That they keep less: tests/prompting/test_memory.py."""
    compare_vision(vit, images, visual_values, recompute_blocks=number)
    token_set, more = token_set_mask(tokens), {"classes_at_once": classes_at_once}
    compare_text(vit, tokens, text_values, token_set, recompute_blocks=number, **more)


@pytest.mark.parametrize("tower", ["vision", "paper", "released"])
def test_detached_tokens_keep_less(vit, images, tokens, text_values, visual_values, tower):
    """The same outputs; gradients are those of CLS and EOS."""
    encoder, first, values, more = VisionEncoder(vit), images, visual_values, {"return_tokens": True}
    if tower != "vision":
        more = {"token_set": token_set_mask(tokens, tower)}
        encoder, first, values = TextEncoder(vit), tokens, text_values
    outs, grads, kept = [], [], []
    for detach in (False, True):
        own = leaves(values)
        run = partial(encoder, first, own[0], own[1:], detach_tokens=detach, **more)
        outs.append(run())
        grads.append(gradients(outs[-1].prompt, own))
        kept.append(saved_bytes(lambda run=run: run().prompt, vit))
    assert outs[0].tokens.requires_grad and not outs[1].tokens.requires_grad
    torch.testing.assert_close(outs[0][:2], outs[1][:2], **TIGHT)
    torch.testing.assert_close(*grads, **TIGHT)
    assert kept[1] < 0.9 * kept[0]
