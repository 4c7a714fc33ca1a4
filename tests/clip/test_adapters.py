"""Adapters in the blocks, and vectors that enter a tower at a later block, against one prompt or image at a time."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from prompting.clip import TextEncoder, VisionEncoder, tokenize_texts
from prompting.clip.adapters import BlockAdapter
from tests.clip.conftest import NAMES, TIGHT, WIDTH, draw, gradients, leaves
from tests.reference import clip_naive

TEXTS = [f"{name}, {end}" for name, end in zip(NAMES, ("a toy.", "a thing.", "", "a thing."))]


def make_adapters(weights: Sequence[Tensor]) -> list[BlockAdapter | None]:
    """Adapters of the input and of the blocks 0 and 2 from nine matrices (d, d)."""
    at_input, q, k, v, attention, *outputs, only_value = weights
    return [
        BlockAdapter(output=lambda x: x @ at_input),
        BlockAdapter(lambda y: (y @ q, y @ k, y @ v), lambda y: y @ attention, lambda y: torch.relu(y @ outputs[0])),
        None,
        BlockAdapter(lambda y: (None, None, y @ only_value), None, lambda y: y @ outputs[1]),
    ]


def draw_weights(stream: torch.Generator, width: int) -> list[Tensor]:
    return [0.3 * width**-0.5 * draw(stream, width, width) for _ in range(8)]


def naive_tower(
    model: nn.Module, name: str, x: Tensor, changes: dict[int, Tensor], at: int, adapters: list, causal: bool
) -> Tensor:
    """Run the blocks on x (L, d); vectors enter before their block, inserted at position ``at`` the first time."""
    state, inserted = model.state_dict(), False
    for i in range(3):
        if i in changes:
            x = torch.cat([x[:at], changes[i], x[at + len(changes[i]) * inserted :]])
            inserted = True
        x = clip_naive.block(
            x, state, f"{name}.resblocks.{i}", x.shape[1] // 64, causal, [*adapters, *[None] * 4][i + 1]
        )
    return x


def naive_text(model: nn.Module, ids: list[int], changes: dict[int, Tensor], adapters: list) -> Tensor:
    state = model.state_dict()
    x = state["token_embedding.weight"][ids]
    x = x + adapters[0].output(x) if adapters else x
    x = naive_tower(model, "transformer", x + state["positional_embedding"][: len(ids)], changes, 1, adapters, True)
    return clip_naive.layer_norm(x, state, "ln_final") @ state["text_projection"]


def naive_image(model: nn.Module, picture: Tensor, changes: dict[int, Tensor], adapters: list, last: Tensor) -> Tensor:
    """Outputs at CLS, the inserted vectors and the patches; all but CLS are mapped by ``last``."""
    state = model.state_dict()
    x = torch.cat([state["visual.class_embedding"][None], model.visual.conv1(picture[None])[0].flatten(1).T])
    x = clip_naive.layer_norm(x + state["visual.positional_embedding"], state, "visual.ln_pre")
    x = x + adapters[0].output(x) if adapters else x
    x = naive_tower(model, "visual.transformer", x, changes, 1, adapters, False)
    x = clip_naive.layer_norm(x, state, "visual.ln_post")
    return torch.cat([x[:1] @ state["visual.proj"], x[1:] @ last])


CASES = [({}, True), ({2: 2}, False), ({1: 3, 2: 3}, False), ({1: 2}, True)]  # block: number of vectors; adapters


@pytest.mark.parametrize("attributes", [{}, {"classes_at_once": 2}, {"recompute_blocks": 3}])
@pytest.mark.parametrize(("vectors", "adapted"), CASES)
def test_text(vit, stream, vectors, adapted, attributes):
    values = [draw(stream, number, WIDTH) for number in vectors.values()]
    values += draw_weights(stream, WIDTH) if adapted else []
    mine, theirs, first = leaves(values), leaves(values), min(vectors, default=0)
    encoder, length = TextEncoder(vit), max(vectors.values(), default=0)
    for name, value in attributes.items():
        setattr(encoder, name, value)
    adapters = make_adapters(mine[len(vectors) :]) if adapted else []
    deep = [mine[list(vectors).index(i)].unsqueeze(0) if i in vectors else None for i in (1, 2)] if vectors else []
    tokens = tokenize_texts(TEXTS, n_ctx=length, clip_model=vit)
    found = encoder(tokens, None, deep, insert_at=first, adapters=adapters, token_set=tokens.words)
    plain, changes = tokenize_texts(TEXTS, clip_model=vit), dict(zip(vectors, theirs))
    adapters, rows, sets = make_adapters(theirs[len(vectors) :]) if adapted else [], [], []
    for k in range(len(TEXTS)):
        eos = int(plain.eos[0, k])
        out = naive_text(vit, plain.ids[0, k, : eos + 1].tolist(), changes, adapters)
        rows.append(out[-1])
        sets.append(out[1 + length : -1])
    ours = torch.cat([found.prompt.flatten(), found.tokens[found.mask].flatten()])
    expected = torch.cat([torch.stack(rows).flatten(), torch.cat(sets).flatten()])
    torch.testing.assert_close(ours, expected, **TIGHT)
    torch.testing.assert_close(gradients(ours, mine), gradients(expected, theirs), **TIGHT)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(("vectors", "adapted"), CASES)
def test_vision(vit, stream, vectors, adapted, detached):
    images, width = draw(stream, 2, 3, 12, 12), 2 * WIDTH
    values = [draw(stream, number, width) for number in vectors.values()]
    values += draw_weights(stream, width) if adapted else []
    last, mine, theirs = draw(stream, *vit.visual.proj.shape), leaves(values), leaves(values)
    encoder = VisionEncoder(vit)
    adapters = make_adapters(mine[len(vectors) :]) if adapted else []
    deep = [mine[list(vectors).index(i)].unsqueeze(0) if i in vectors else None for i in (1, 2)] if vectors else []
    alone = encoder(images, None, deep, adapters=adapters).prompt
    out = encoder(
        images, None, deep, adapters=adapters, return_tokens=True, detach_tokens=detached, token_projection=last
    )
    adapters, n = make_adapters(theirs[len(vectors) :]) if adapted else [], max(vectors.values(), default=0)
    naive = torch.stack([naive_image(vit, image, dict(zip(vectors, theirs)), adapters, last) for image in images])
    naive = torch.cat([naive[:, :1], naive[:, 1 + n :], naive[:, 1 : 1 + n]], 1)  # CLS, patches, vectors
    ours = torch.cat([out.prompt, out.tokens[:, 0]], 1)
    torch.testing.assert_close(ours, naive, **TIGHT)
    torch.testing.assert_close(alone, out.prompt, **TIGHT)
    if values:
        naive = naive[:, :1] if detached else naive
        ours = ours[:, :1] if detached else ours
        torch.testing.assert_close(gradients(ours, mine), gradients(naive, theirs), **TIGHT)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_blocks_that_are_called_as_a_whole(vit, stream, tower):
    """A hook on a block: vectors enter and outputs are added as before; adapters inside the attention are refused."""
    width, images = WIDTH * (1 + (tower == "vision")), draw(stream, 2, 3, 12, 12)
    vectors, matrix = draw(stream, 1, 2, width), draw(stream, width, width)
    outside, inside = BlockAdapter(output=lambda y: y @ matrix), BlockAdapter(attention=lambda y: y @ matrix)

    def run(adapter: BlockAdapter) -> Tensor:
        if tower == "vision":
            return VisionEncoder(vit)(images, None, [vectors, None], adapters=[None, None, adapter]).prompt
        tokens = tokenize_texts(TEXTS, n_ctx=2, clip_model=vit)
        return TextEncoder(vit)(tokens, None, [vectors], insert_at=1, adapters=[None, None, adapter]).prompt

    expected = run(outside)
    blocks = (vit.visual if tower == "vision" else vit).transformer.resblocks
    blocks[1].register_forward_hook(lambda *_: None)
    torch.testing.assert_close(run(outside), expected, **TIGHT)
    with pytest.raises(ValueError, match="adapters inside the attention need open_clip's standard blocks"):
        run(inside)


@pytest.mark.parametrize(
    ("deep", "insert_at", "message"),
    [
        ([(1, 2, WIDTH)], 2, "insert_at 2 needs 2 vectors for this block and none before; found 2 vectors for block 1"),
        ([None, (1, 1, WIDTH)], 2, "found 1 vectors for block 2"),
        ([], 1, "found no vectors"),
    ],
)
def test_inserted_vectors_that_do_not_fit(vit, deep, insert_at, message):
    tokens = tokenize_texts(TEXTS, n_ctx=2, clip_model=vit)
    values = [None if shape is None else torch.zeros(shape, dtype=torch.float64) for shape in deep]
    with pytest.raises(ValueError, match=message):
        TextEncoder(vit)(tokens, None, values, insert_at=insert_at)


def test_inserted_positions_are_the_same_in_all_prompts(vit):
    tokens = tokenize_texts(TEXTS, n_ctx=2, clip_model=vit)
    moved = tokens._replace(context=tokens.context + torch.arange(len(TEXTS)).view(1, -1, 1) // 2)
    with pytest.raises(ValueError, match="inserted context positions differ"):
        TextEncoder(vit)(moved, None, [torch.zeros(1, 2, WIDTH, dtype=torch.float64)], insert_at=1)


def test_more_adapters_than_blocks(vit):
    with pytest.raises(ValueError, match="5 adapters; allowed: at most 4, for the input and 3 blocks"):
        VisionEncoder(vit)(torch.zeros(1, 3, 12, 12, dtype=torch.float64), adapters=[None] * 5)
