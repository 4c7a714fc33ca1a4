"""CLIP with prompts, one prompt of one class (or one image) at a time, by loops over heads and positions.

With ``own_blocks``, the blocks are those of the open_clip model, which may have other activations and norms.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prompting.clip import PromptTokens
from prompting.clip.adapters import BlockAdapter

State = dict[str, Tensor]


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    """Attention of queries (Q, d) to keys and values (L, d), one head and one query at a time."""
    width = q.shape[1] // heads
    out = torch.zeros_like(q)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(q)):
            seen = i + 1 if causal else len(k)
            weights = torch.softmax(k[:seen, part] @ q[i, part] / width**0.5, 0)
            out[i, part] = weights @ v[:seen, part]
    return out


def block(x: Tensor, state: State, name: str, heads: int, causal: bool, adapter: BlockAdapter | None = None) -> Tensor:
    """One residual attention block of x (L, d)."""
    inner, attention, output = adapter or (None, None, None)
    normed = layer_norm(x, state, f"{name}.ln_1")
    q, k, v = (normed @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]).chunk(3, 1)
    if inner is not None:
        q, k, v = (part if more is None else part + more for part, more in zip((q, k, v), inner(normed)))
    y = attend(q, k, v, heads, causal)
    x = x if attention is None else x + attention(y)
    x = x + y @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
    y = layer_norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
    y = y * torch.sigmoid(1.702 * y)
    x = x + y @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    return x if output is None else x + output(normed)


def run_blocks(x: Tensor, model: nn.Module, name: str, deep: list, causal: bool, own_blocks: bool) -> Tensor:
    """Run the blocks of a tower on x (L, d); ``deep[i]``, positions and vectors, enters before block i + 1."""
    state, tower = model.state_dict(), model.get_submodule(name)
    mask = torch.full((len(x), len(x)), float("-inf"), dtype=x.dtype).triu(1) if causal else None
    batch = 0 if tower.batch_first else 1
    for i, module in enumerate(tower.resblocks):
        if 0 < i <= len(deep):
            places, vectors = deep[i - 1]
            x = x.clone()
            x[places] = vectors.to(x.dtype)
        if own_blocks:
            x = module(x.unsqueeze(batch), attn_mask=mask).squeeze(batch)
        else:
            x = block(x, state, f"{name}.resblocks.{i}", max(1, x.shape[1] // 64), causal)
    return x


def text(
    model: nn.Module, ids: list[int], where: list[int], vectors: Sequence[Tensor | None], own_blocks: bool = False
) -> Tensor:
    """Outputs (context, D) of one prompt, zero-padded to the full context; ``vectors[i]`` (b, d) enters block i."""
    state = model.state_dict()
    x = state["token_embedding.weight"][ids + [0] * (len(state["positional_embedding"]) - len(ids))].clone()
    if vectors and vectors[0] is not None:
        x[where] = vectors[0].to(x.dtype)
    deep = [(where[: len(v)], v) for v in vectors[1:]]
    x = run_blocks(x + state["positional_embedding"], model, "transformer", deep, True, own_blocks)
    return layer_norm(x, state, "ln_final") @ state["text_projection"]


def image(model: nn.Module, picture: Tensor, vectors: Sequence[Tensor], own_blocks: bool = False) -> Tensor:
    """Outputs (1 + O + b, D) of one picture (3, H, W): CLS, patches, prompts; ``vectors[i]`` (b, d) enters block i."""
    state = model.state_dict()
    kernel = state["visual.conv1.weight"]
    p = kernel.shape[-1]
    cuts = [(top, left) for top in range(0, picture.shape[1], p) for left in range(0, picture.shape[2], p)]
    patches = [(kernel * picture[:, i : i + p, j : j + p]).sum((1, 2, 3)) for i, j in cuts]
    x = model.visual.conv1(picture[None])[0].flatten(1).T if own_blocks else torch.stack(patches)
    x = torch.cat([state["visual.class_embedding"].to(x.dtype)[None], x])
    x = torch.cat([x + state["visual.positional_embedding"].to(x.dtype), *(v.to(x.dtype) for v in vectors[:1])])
    deep = [(slice(len(x) - len(v), None), v) for v in vectors[1:]]
    x = run_blocks(layer_norm(x, state, "visual.ln_pre"), model, "visual.transformer", deep, False, own_blocks)
    return layer_norm(x, state, "visual.ln_post") @ state["visual.proj"]


def all_texts(
    model: nn.Module, tokens: PromptTokens, values: Sequence[Tensor | None], token_set: Tensor, own_blocks: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """EOS outputs (K, N, D), and outputs at the positions of ``token_set`` (N|1, K, T) for each class and prompt."""
    n, (_, classes, length) = max(len(v) for v in (tokens.ids, *values) if v is not None), tokens.ids.shape
    prompts, chosen = [], []
    for k in range(classes):
        for i in range(n):
            row, vectors = min(i, len(tokens.ids) - 1), [v if v is None else v[min(i, len(v) - 1)] for v in values]
            vectors = [v[k] if v is not None and v.dim() == 3 else v for v in vectors]  # class-specific
            out = text(model, tokens.ids[row, k].tolist(), tokens.context[row, k].tolist(), vectors, own_blocks)
            prompts.append(out[tokens.eos[row, k]])
            chosen.append(out[:length][token_set[min(i, len(token_set) - 1), k]])
    return torch.stack(prompts).unflatten(0, (classes, n)), chosen


def all_images(model: nn.Module, pictures: Tensor, values: Sequence[Tensor], own_blocks: bool = False) -> Tensor:
    """Outputs (B, M, 1 + O + b, D) of all pictures (B, 3, H, W) with each visual prompt."""
    m = max([1, *map(len, values)])
    vectors = [[v[min(i, len(v) - 1)] for v in values] for i in range(m)]
    return torch.stack([torch.stack([image(model, picture, v, own_blocks) for v in vectors]) for picture in pictures])


def attention_pool(state: State, features: Tensor, heads: int) -> Tensor:
    """Outputs (1 + h * w, D) of CLIP's ResNet pooling of a feature map (C, h, w), each position a query."""
    x = features.flatten(1).T
    x = torch.cat([x.mean(0, keepdim=True), x]) + state["visual.attnpool.positional_embedding"]
    q, k, v, c = (f"visual.attnpool.{name}_proj" for name in "qkvc")
    q, k, v = (x @ state[f"{name}.weight"].T + state[f"{name}.bias"] for name in (q, k, v))
    return attend(q, k, v, heads, causal=False) @ state[f"{c}.weight"].T + state[f"{c}.bias"]
