"""Prompted towers against plain open_clip, and against one prompt at a time written out by hand."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch import Tensor, nn

from prompting.clip import (
    PromptTokens,
    TextEncoder,
    VisionEncoder,
    load_clip,
    tokenize_prompts,
    tokenize_texts,
    word_vectors,
)
from prompting.clip.formats import build_clip
from tests.reference import clip_naive as naive
from tests.reference.clip_states import vit_state

NAMES = ["cat", "yin_yang", "Boeing 737-800"]
TIGHT = {"atol": 1e-9, "rtol": 1e-9}


def draw(stream: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream, dtype=torch.float64)


# -- without prompts: plain open_clip --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("return_tokens", [False, True])
def test_no_prompts_is_open_clip(
    kind: str, dtype: torch.dtype, return_tokens: bool, request: pytest.FixtureRequest, stream: torch.Generator
) -> None:
    model = request.getfixturevalue(kind).to(dtype)
    size = model.visual.image_size
    images = draw(stream, 2, 3, *(size if isinstance(size, tuple) else (size, size))).to(dtype)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else TIGHT

    seen = VisionEncoder(model)(images, return_tokens=return_tokens)
    torch.testing.assert_close(seen.prompt[:, 0], model.encode_image(images), **close)

    sentences = ["a photo of a cat.", "dog", "the cat sat on the mat"]
    plain = open_clip.SimpleTokenizer()(sentences, context_length=model.context_length)
    read = TextEncoder(model)(tokenize_texts(sentences, clip_model=model), return_tokens=return_tokens)
    torch.testing.assert_close(read.prompt[:, 0], model.encode_text(plain), **close)
    assert (seen.tokens is None) == (read.tokens is None) == (not return_tokens)


def test_custom_text_clip_reads_the_same(vit: nn.Module, stream: torch.Generator) -> None:
    layers = len(vit.transformer.resblocks)
    d_l, embed = vit.text_projection.shape
    custom = open_clip.CustomTextCLIP(
        embed,
        {"layers": 1, "width": 64, "patch_size": 4, "image_size": 8},
        {"context_length": vit.context_length, "width": d_l, "heads": 1, "layers": layers},
        quick_gelu=True,
    ).double()
    parts = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    custom.text.load_state_dict({k: v for k, v in vit.state_dict().items() if k.startswith(parts)})
    tokens = tokenize_prompts(NAMES, n_ctx=2, clip_model=custom)
    context = draw(stream, 2, 2, d_l)
    ours, theirs = (TextEncoder(load_clip(model))(tokens, context).prompt for model in (vit, custom))
    torch.testing.assert_close(ours, theirs, **TIGHT)


# -- with prompts: one at a time, by hand ----------------------------------------------------------------------------


def text_by_hand(
    state: dict[str, Tensor], tokens: PromptTokens, context: Tensor | None, deep: list[Tensor], n: int
) -> tuple[Tensor, Tensor]:
    """Return the EOS outputs (K, N, D) and all outputs (K, N, T, D)."""
    prompts, everything = [], []
    for k in range(tokens.ids.shape[1]):
        for i in range(n):
            row = i if len(tokens.ids) > 1 else 0
            vectors = [] if context is None else [context, *deep]
            vectors = [v[i] if len(v) > 1 else v[0] for v in vectors]
            vectors = [v[k] if v.dim() == 3 else v for v in vectors]
            out = naive.text(state, tokens.ids[row, k].tolist(), tokens.context[row, k].tolist(), vectors)
            prompts.append(out[tokens.eos[row, k]])
            everything.append(out[: tokens.ids.shape[2]])
    shape = (tokens.ids.shape[1], n)
    return torch.stack(prompts).unflatten(0, shape), torch.stack(everything).unflatten(0, shape)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("prefixes", [None, ["a photo of a", "", "one big"]])
@pytest.mark.parametrize("depth", [1, 3])
def test_text_prompts_by_hand(
    vit: nn.Module, vit64: dict, stream: torch.Generator, position: str, prefixes: list[str] | None, depth: int
) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=prefixes, position=position, clip_model=vit)
    vectors = [draw(stream, 3, 2, 64) for _ in range(depth)]
    got = TextEncoder(vit)(tokens, vectors[0], vectors[1:], return_tokens=True)
    prompt, everything = text_by_hand(vit64, tokens, vectors[0], vectors[1:], 3)
    torch.testing.assert_close(got.prompt, prompt, **TIGHT)
    torch.testing.assert_close(got.tokens, everything, **TIGHT)
    # Without the tokens the same features come out.
    torch.testing.assert_close(TextEncoder(vit)(tokens, vectors[0], vectors[1:]).prompt, prompt, **TIGHT)


def test_class_specific_and_shorter_deep_prompts(vit: nn.Module, vit64: dict, stream: torch.Generator) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=3, clip_model=vit)
    context = draw(stream, 2, len(NAMES), 3, 64)
    deep = [draw(stream, 1, 2, 64), draw(stream, 2, len(NAMES), 1, 64)]
    got = TextEncoder(vit)(tokens, context, deep)
    torch.testing.assert_close(got.prompt, text_by_hand(vit64, tokens, context, deep, 2)[0], **TIGHT)


def test_no_context_keeps_the_words(vit: nn.Module) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a"], clip_model=vit)
    plain = tokenize_texts([f"a photo of a {name.replace('_', ' ')}." for name in NAMES], clip_model=vit)
    encoder = TextEncoder(vit)
    torch.testing.assert_close(encoder(tokens).prompt, encoder(plain).prompt, **TIGHT)
    # So does a context that is the words' own embeddings.
    words = word_vectors(vit, "a_photo_of_a", 2)[None]
    torch.testing.assert_close(encoder(tokens, words).prompt, encoder(plain).prompt, **TIGHT)


def test_text_stops_at_the_longest_prompt(vit: nn.Module, stream: torch.Generator) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, clip_model=vit)
    length = tokens.ids.shape[2]
    assert length < vit.context_length
    pad = (0, vit.context_length - length)
    full = tokens._replace(
        ids=nn.functional.pad(tokens.ids, pad), words=nn.functional.pad(tokens.words, pad, value=False)
    )
    context, deep = draw(stream, 2, 2, 64), [draw(stream, 2, 2, 64)]
    short, long = (TextEncoder(vit)(t, context, deep, return_tokens=True) for t in (tokens, full))
    torch.testing.assert_close(short.prompt, long.prompt, **TIGHT)
    torch.testing.assert_close(short.tokens, long.tokens[:, :, :length], **TIGHT)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("number", [1, 2])
def test_visual_prompts_by_hand(vit: nn.Module, vit64: dict, stream: torch.Generator, depth: int, number: int) -> None:
    images = draw(stream, 2, 3, 12, 12)
    vectors = [draw(stream, number, 2, 128) for _ in range(depth)]
    got = VisionEncoder(vit)(images, vectors[0], vectors[1:], return_tokens=True)
    for b in range(2):
        for m in range(number):
            by_hand = naive.image(vit64, images[b], [v[m] for v in vectors])
            torch.testing.assert_close(got.prompt[b, m], by_hand[0], **TIGHT)
            torch.testing.assert_close(got.tokens[b, m], by_hand[1:], **TIGHT)
    assert got.tokens.shape[2] == 9 + 2 and got.mask is None
    torch.testing.assert_close(VisionEncoder(vit)(images, vectors[0], vectors[1:]).prompt, got.prompt, **TIGHT)


def test_shorter_deep_visual_prompts_replace_the_last(vit: nn.Module, vit64: dict, stream: torch.Generator) -> None:
    images, first, second = draw(stream, 1, 3, 12, 12), draw(stream, 2, 3, 128), draw(stream, 1, 1, 128)
    got = VisionEncoder(vit)(images, first, [second]).prompt
    for m in range(2):
        torch.testing.assert_close(got[0, m], naive.image(vit64, images[0], [first[m], second[0]])[0], **TIGHT)


def test_narrow_towers_have_one_head(stream: torch.Generator) -> None:
    state = vit_state(seed=3, d_v=40, d_l=24, vision_layers=2, text_layers=1, patch=5, grid=2, mlp=2)
    model = load_clip(build_clip(state, "a narrow CLIP")).double()
    state = {name: value.double() for name, value in state.items()}
    images, prompts = draw(stream, 1, 3, 10, 10), draw(stream, 2, 1, 40)
    got = VisionEncoder(model)(images, prompts).prompt
    torch.testing.assert_close(got[0, 1], naive.image(state, images[0], [prompts[1]])[0], **TIGHT)
    tokens, context = tokenize_prompts(["cat"], n_ctx=1, clip_model=model), draw(stream, 1, 1, 24)
    got = TextEncoder(model)(tokens, context).prompt
    torch.testing.assert_close(got, text_by_hand(state, tokens, context, [], 1)[0], **TIGHT)


def test_resnet_tokens_are_the_pools_outputs(resnet: nn.Module, resnet64: dict, stream: torch.Generator) -> None:
    images = draw(stream, 2, 3, 64, 64)
    got = VisionEncoder(resnet)(images, return_tokens=True)
    visual, maps = resnet.visual, []
    visual.attnpool.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
    visual(images)
    for b in range(2):
        by_hand = naive.attention_pool(resnet64, maps[0][b], visual.attnpool.num_heads)
        torch.testing.assert_close(got.prompt[b, 0], by_hand[0], **TIGHT)
        torch.testing.assert_close(got.tokens[b, 0], by_hand[1:], **TIGHT)


# -- gradients, freezing, layouts ------------------------------------------------------------------------------------


def test_gradients_reach_the_prompts_and_nothing_else(vit: nn.Module, stream: torch.Generator) -> None:
    text, vision = TextEncoder(vit), VisionEncoder(vit)
    tokens = tokenize_prompts(NAMES, n_ctx=2, clip_model=vit)
    text_side = [draw(stream, 2, 2, 64).float().requires_grad_() for _ in range(3)]
    image_side = [draw(stream, 2, 2, 128).float().requires_grad_() for _ in range(3)]
    read = text(tokens, text_side[0], text_side[1:], return_tokens=True)
    seen = vision(draw(stream, 1, 3, 12, 12), image_side[0], image_side[1:], return_tokens=True)
    weights = [draw(stream, *out.shape) for out in (*read[:2], *seen[:2])]
    sum((out * w).sum() for out, w in zip((*read[:2], *seen[:2]), weights)).backward()
    for prompt in text_side + image_side:
        assert prompt.grad.dtype == torch.float32
        assert (prompt.grad.abs().sum(-1) > 0).all()
    assert all(not p.requires_grad and p.grad is None for p in vit.parameters())


def test_nothing_is_recorded_without_learned_tensors(vit: nn.Module, stream: torch.Generator) -> None:
    assert not VisionEncoder(vit)(draw(stream, 1, 3, 12, 12)).prompt.requires_grad
    assert not TextEncoder(vit)(tokenize_texts(["cat"], clip_model=vit)).prompt.requires_grad


def test_encoders_share_weights_and_stay_in_evaluation_mode(resnet: nn.Module, stream: torch.Generator) -> None:
    text, vision = TextEncoder(resnet), VisionEncoder(resnet)
    mine, theirs = ({id(p) for p in encoder.parameters()} for encoder in (text, vision))
    assert not mine & theirs
    assert mine | theirs | {id(resnet.logit_scale)} == {id(p) for p in resnet.parameters()}
    statistics = resnet.visual.bn1.running_mean.clone()
    nn.ModuleList([text, vision]).train()
    vision(draw(stream, 2, 3, 64, 64))
    assert not any(module.training for encoder in (text, vision) for module in encoder.modules())
    torch.testing.assert_close(resnet.visual.bn1.running_mean, statistics)


def test_length_first_blocks_give_the_same(vit: nn.Module, stream: torch.Generator) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, clip_model=vit)
    context, deep, images = draw(stream, 2, 2, 64), [draw(stream, 2, 2, 64)], draw(stream, 1, 3, 12, 12)
    text, vision = TextEncoder(vit), VisionEncoder(vit)
    before = text(tokens, context, deep).prompt, vision(images).prompt
    for transformer in (vit.transformer, vit.visual.transformer):
        transformer.batch_first = False
        for block in transformer.resblocks:
            block.attn.batch_first = False
    torch.testing.assert_close((text(tokens, context, deep).prompt, vision(images).prompt), before, **TIGHT)


def test_gradient_checkpointing_changes_no_gradient(vit: nn.Module, stream: torch.Generator) -> None:
    tokens = tokenize_prompts(NAMES, n_ctx=2, clip_model=vit)
    start, text, gradients = draw(stream, 2, 2, 64), TextEncoder(vit), []
    for flag in (False, True):
        vit.set_grad_checkpointing(flag)
        context = start.clone().requires_grad_()
        text(tokens, context).prompt.pow(2).sum().backward()
        gradients.append(context.grad)
    torch.testing.assert_close(*gradients, **TIGHT)


# -- bad input -------------------------------------------------------------------------------------------------------


def test_text_errors(vit: nn.Module) -> None:
    text, tokens = TextEncoder(vit), tokenize_prompts(NAMES, n_ctx=2, clip_model=vit)
    with pytest.raises(
        ValueError, match=r"context has shape \(1, 3, 64\); allowed: \(any, 2, 64\) or \(any, 3, 2, 64\)"
    ):
        text(tokens, torch.zeros(1, 3, 64))
    with pytest.raises(ValueError, match=r"deep text prompt 0 has shape \(1, 3, 64\)"):
        text(tokens, torch.zeros(1, 2, 64), [torch.zeros(1, 3, 64)])
    with pytest.raises(ValueError, match=r"disagree in number: found \[2, 3\]"):
        text(tokens, torch.zeros(2, 2, 64), [torch.zeros(3, 2, 64)])
    with pytest.raises(ValueError, match="a tower of 3 blocks takes at most 2"):
        text(tokens, torch.zeros(1, 2, 64), [torch.zeros(1, 2, 64)] * 3)
    with pytest.raises(ValueError, match="'a b' has 2 tokens, fewer than the 3"):
        word_vectors(vit, "a b", 3)


def test_visual_errors(vit: nn.Module, resnet: nn.Module) -> None:
    vision, images = VisionEncoder(vit), torch.zeros(1, 3, 12, 12)
    with pytest.raises(ValueError, match=r"images has shape \(1, 3, 16, 16\); allowed: \(any, 3, 12, 12\)"):
        vision(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"visual prompts has shape \(1, 2, 64\); allowed: \(any, any, 128\)"):
        vision(images, torch.zeros(1, 2, 64))
    with pytest.raises(ValueError, match=r"deep visual prompt 0 has shape \(1, 3, 128\)"):
        vision(images, torch.zeros(1, 2, 128), [torch.zeros(1, 3, 128)])
    with pytest.raises(ValueError, match="need visual prompts at the input"):
        vision(images, None, [torch.zeros(1, 2, 128)])
    with pytest.raises(ValueError, match="at most 2"):
        vision(images, torch.zeros(1, 2, 128), [torch.zeros(1, 2, 128)] * 3)
    with pytest.raises(ValueError, match="visual prompts need a ViT backbone; this one is a ResNet"):
        VisionEncoder(resnet)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 2, 256))
