"""Prompted towers against plain open_clip, and against one prompt at a time: outputs and gradients."""

from functools import partial

import open_clip
import pytest
import torch
from open_clip.transformer import LayerScale
from torch import nn

from prompting.clip import TextEncoder, VisionEncoder, load_clip, token_set_mask, tokenize_prompts, tokenize_texts
from prompting.clip.formats import build_clip
from prompting.clip.layout import lay_out
from tests.clip.conftest import NAMES, TIGHT, WIDTH, compare_text, compare_vision, draw, gradients, leaves
from tests.reference import clip_naive
from tests.reference.clip_states import vit_state


@pytest.mark.parametrize(("kind", "dtype"), [("vit", torch.float64), ("resnet", torch.float64), ("vit", torch.float32)])
@pytest.mark.parametrize("with_tokens", [False, True])
def test_no_prompts_is_open_clip(kind, dtype, with_tokens, request, stream):
    model = request.getfixturevalue(kind).to(dtype)
    size = model.visual.image_size
    images = draw(stream, 2, 3, *(size if isinstance(size, tuple) else (size, size))).to(dtype)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else TIGHT
    seen = VisionEncoder(model)(images, return_tokens=with_tokens)
    torch.testing.assert_close(seen.prompt[:, 0], model.encode_image(images), **close)
    sentences = ["a photo of a cat.", "dog", "the cat sat on the mat"]
    plain = open_clip.SimpleTokenizer()(sentences, context_length=model.context_length)
    tokens = tokenize_texts(sentences, clip_model=model)
    read = TextEncoder(model)(tokens, token_set=tokens.words if with_tokens else None)
    torch.testing.assert_close(read.prompt[:, 0], model.encode_text(plain), **close)
    assert (seen.tokens is None) == (read.tokens is None) == (not with_tokens)
    assert not seen.prompt.requires_grad and not read.prompt.requires_grad  # nothing is recorded


# -- text ------------------------------------------------------------------------------------------------------------


PREFIXES = ["a photo of a", "", "one big"]


@pytest.mark.parametrize(("position", "prefixes"), [("end", PREFIXES), ("middle", None), ("front", PREFIXES)])
@pytest.mark.parametrize(("depth", "reading"), [(0, "paper"), (1, None), (3, "released"), (3, "paper")])
def test_text_prompts(vit, stream, position, prefixes, depth, reading):
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=prefixes, position=position, clip_model=vit)
    values = [draw(stream, 3, 2, WIDTH) for _ in range(depth)]
    compare_text(vit, tokens, values, None if reading is None else token_set_mask(tokens, reading))


@pytest.mark.parametrize("classes_at_once", [None, 2])
def test_class_specific_and_shorter_deep_prompts(vit, stream, classes_at_once):
    tokens = tokenize_prompts(NAMES, n_ctx=3, prefixes=["", "one big red"], clip_model=vit)
    values = [draw(stream, 2, len(NAMES), 3, WIDTH), draw(stream, 1, 2, WIDTH), draw(stream, 2, len(NAMES), 1, WIDTH)]
    compare_text(vit, tokens, values, token_set_mask(tokens, "released"), classes_at_once=classes_at_once)


def test_deep_prompts_without_a_context(vit, stream):
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a"], clip_model=vit)
    compare_text(vit, tokens, [None, draw(stream, 3, 2, WIDTH)], token_set_mask(tokens))


@pytest.mark.parametrize("names", [["cat"], ["cat", "cat"], ["cat", "cat nap"]])
def test_names_that_are_prefixes_of_one_another(vit, stream, names):
    tokens = tokenize_prompts(names, n_ctx=2, prefixes=["", ""], clip_model=vit)
    compare_text(vit, tokens, [draw(stream, 2, 2, WIDTH)], token_set_mask(tokens))
    compare_text(vit, tokenize_texts(names, clip_model=vit))


def test_prompts_without_a_common_start(vit):
    tokens = tokenize_texts(["cat", "dog"], clip_model=vit)
    tokens.ids[0, 0, 0] = 5
    compare_text(vit, tokens)


def test_positions_run(vit):
    """SOS and the fixed words once per prompt; name, stop and EOS once per class and prompt, without padding."""
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=vit)
    for at_once in (None, 1, 3):
        prefix, chunks, _ = lay_out(tokens, classes_at_once=at_once)
        assert len(prefix.ids) == 2 * 5
        assert sum(len(chunk.ids) for chunk in chunks) == int((tokens.words.sum(-1) + 2).sum())


# -- vision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_tokens", [False, True])
@pytest.mark.parametrize(
    "shapes",
    [[], [(3, 2)], [(2, 2), (2, 2), (2, 2)], [(2, 3), (2, 1), (1, 3)]],
    ids=["none", "input", "deep", "shorter"],
)
def test_visual_prompts(vit, stream, shapes, return_tokens):
    values = [draw(stream, *shape, 2 * WIDTH) for shape in shapes]
    compare_vision(vit, draw(stream, 2, 3, 12, 12), values, return_tokens)


def test_positions_before_the_last_block_only(vit, stream):
    """Without tokens the last block's MLP sees CLS alone; replaced prompts skip the MLP before."""
    rows: list[int] = []
    encoder, prompts = VisionEncoder(vit), [draw(stream, 2, 2, 2 * WIDTH) for _ in range(3)]
    for block in vit.visual.transformer.resblocks:
        block.ln_2.register_forward_hook(lambda _, args, out: rows.append(out.shape[1]))
    encoder(draw(stream, 1, 3, 12, 12), prompts[0], prompts[1:])
    assert rows == [10, 10, 1]


def test_resnet_tokens_are_the_pools_outputs(resnet, stream):
    images = draw(stream, 2, 3, 64, 64)
    got = VisionEncoder(resnet)(images, return_tokens=True)
    visual, maps = resnet.visual, []
    visual.attnpool.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
    visual(images)
    for b in range(2):
        by_hand = clip_naive.attention_pool(resnet.state_dict(), maps[0][b], visual.attnpool.num_heads)
        torch.testing.assert_close(got.prompt[b, 0], by_hand[0], **TIGHT)
        torch.testing.assert_close(got.tokens[b, 0], by_hand[1:], **TIGHT)


# -- other towers, precisions and modes ------------------------------------------------------------------------------


def test_narrow_towers_have_one_head(stream):
    state = vit_state(seed=3, d_v=40, d_l=24, vision_layers=2, text_layers=1, patch=5, grid=2, mlp=2)
    model = load_clip(build_clip(state, "a narrow CLIP")).double()
    compare_vision(model, draw(stream, 1, 3, 10, 10), [draw(stream, 2, 1, 40)])
    compare_text(model, tokenize_prompts(["cat"], n_ctx=1, clip_model=model), [draw(stream, 1, 1, 24)])


def test_custom_text_clip_reads_the_same(vit, stream):
    layers, (d_l, embed) = len(vit.transformer.resblocks), vit.text_projection.shape
    vision = {"layers": 1, "width": 64, "patch_size": 4, "image_size": 8}
    text = {"context_length": vit.context_length, "width": d_l, "heads": 1, "layers": layers}
    custom = open_clip.CustomTextCLIP(embed, vision, text, quick_gelu=True).double()
    parts = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
    custom.text.load_state_dict({k: v for k, v in vit.state_dict().items() if k.startswith(parts)})
    tokens, context = tokenize_prompts(NAMES, n_ctx=2, clip_model=custom), draw(stream, 2, 2, d_l)
    ours, theirs = (TextEncoder(load_clip(model))(tokens, context).prompt for model in (vit, custom))
    torch.testing.assert_close(ours, theirs, **TIGHT)


@pytest.mark.parametrize("change", ["gelu", "layer scale", "length first", "query norm", "hook"])
def test_blocks_of_other_makes(vit, stream, change):
    model, called = vit, []
    if change == "query norm":
        tower = {"width": WIDTH, "heads": 2, "layers": 2, "qk_norm": True}
        vision = {"layers": 2, "width": 2 * WIDTH, "head_width": 16, "patch_size": 4, "image_size": 12, "qk_norm": True}
        model = load_clip(open_clip.CLIP(16, vision, {**tower, "context_length": 20, "vocab_size": 49408}).double())
    for transformer in (model.transformer, model.visual.transformer):
        if change == "length first":
            transformer.batch_first = False
        for block in transformer.resblocks:
            if change in ("gelu", "layer scale"):
                block.mlp.gelu = nn.GELU()
            if change == "layer scale":
                block.ls_1, block.ls_2 = (LayerScale(transformer.width, 0.3).double() for _ in range(2))
            if change == "length first":
                block.attn.batch_first = False
            if change == "hook":
                block.mlp.register_forward_hook(lambda *_: called.append(1))
    model.requires_grad_(False)
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["", "one big"], clip_model=model)
    TextEncoder(model)(tokens)
    assert bool(called) == (change == "hook")
    compare_text(model, tokens, [draw(stream, 2, 2, WIDTH) for _ in range(2)], token_set_mask(tokens), own_blocks=True)
    compare_vision(model, draw(stream, 2, 3, 12, 12), [draw(stream, 2, 2, 2 * WIDTH)], own_blocks=True)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_autocast_is_as_near_to_float32_as_whole_blocks(vit, stream, tower):
    model, outs = vit.float(), []
    tokens = tokenize_prompts(NAMES, n_ctx=2, prefixes=["a photo of a", ""], clip_model=model)
    images, values = draw(stream, 2, 3, 12, 12).float(), [draw(stream, 2, 2, WIDTH * (1 + (tower == "vision"))).float()]
    for whole, half in ((True, False), (True, True), (False, True)):
        own = leaves(values)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            if tower == "text":
                naive = partial(clip_naive.all_texts, model, tokens, own, tokens.words, own_blocks=True)
                out = naive()[0] if whole else TextEncoder(model)(tokens, *own).prompt
            else:
                naive = partial(clip_naive.all_images, model, images, own, own_blocks=True)
                out = naive()[:, :, 0] if whole else VisionEncoder(model)(images, *own).prompt
        outs.append([out.detach().float(), *gradients(out.float(), own)])
    for true, theirs, our in zip(*outs):
        error, expected = ((x - true).norm() / true.norm() for x in (our, theirs))
        assert 0 < error < 1.3 * expected < 0.1


def test_encoders_share_weights_and_stay_in_evaluation_mode(resnet, stream):
    text, vision = TextEncoder(resnet), VisionEncoder(resnet)
    mine, theirs = ({id(p) for p in encoder.parameters()} for encoder in (text, vision))
    assert not mine & theirs
    assert mine | theirs | {id(resnet.logit_scale)} == {id(p) for p in resnet.parameters()}
    statistics = resnet.visual.bn1.running_mean.clone()
    nn.ModuleList([text, vision]).train()
    vision(draw(stream, 2, 3, 64, 64))
    assert torch.equal(resnet.visual.bn1.running_mean, statistics)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "deep", "message"),
    [
        ((1, 3, 64), [], r"text prompt has shape \(1, 3, 64\); allowed: \(any, 2, 64\) or \(any, 4, 2, 64\)"),
        ((1, 2, 64), [(1, 3, 64)], r"deep text prompt 0 has shape \(1, 3, 64\)"),
        ((2, 2, 64), [(3, 2, 64)], r"disagree in number: found \[2, 3\]"),
        ((1, 2, 64), [(1, 2, 64)] * 3, "a tower of 3 blocks takes at most 2"),
    ],
)
def test_text_errors(vit, context, deep, message):
    tokens = tokenize_prompts(NAMES, n_ctx=2, clip_model=vit)
    with pytest.raises(ValueError, match=message):
        TextEncoder(vit)(tokens, torch.zeros(context), [torch.zeros(shape) for shape in deep])


@pytest.mark.parametrize(
    ("kind", "size", "prompts", "deep", "message"),
    [
        ("vit", 16, None, [], r"images has shape \(1, 3, 16, 16\); allowed: \(any, 3, 12, 12\)"),
        ("vit", 12, (1, 2, 64), [], r"visual prompt has shape \(1, 2, 64\); allowed: \(any, 2, 128\)"),
        ("vit", 12, (1, 2, 128), [(1, 3, 128)], r"deep visual prompt 0 has shape \(1, 3, 128\)"),
        ("vit", 12, (1, 2, 128), [(1, 2, 128)] * 3, "at most 2"),
        ("resnet", 64, (1, 2, 256), [], "visual prompts need a ViT backbone; this one is a ResNet"),
    ],
)
def test_visual_errors(kind, size, prompts, deep, message, request):
    vision, first = VisionEncoder(request.getfixturevalue(kind)), None if prompts is None else torch.zeros(prompts)
    with pytest.raises(ValueError, match=message):
        vision(torch.zeros(1, 3, size, size), first, [torch.zeros(shape) for shape in deep])
