"""CLIP with prompts, written out from a state dict: one prompt of one class (or one image) at a time, plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor

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


def block(x: Tensor, state: State, name: str, heads: int, causal: bool) -> Tensor:
    """One residual attention block of x (L, d)."""
    y = layer_norm(x, state, f"{name}.ln_1")
    q, k, v = (y @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]).chunk(3, 1)
    y = attend(q, k, v, heads, causal)
    x = x + y @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
    y = layer_norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
    y = y * torch.sigmoid(1.702 * y)
    return x + y @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]


def heads_of(width: int) -> int:
    return max(1, width // 64)


def text(state: State, ids: list[int], where: list[int], vectors: list[Tensor]) -> Tensor:
    """Outputs (context, D) of one prompt, zero-padded to the full context; ``vectors[i]`` (b, d) enters block i."""
    size = len(state["positional_embedding"])
    x = state["token_embedding.weight"][ids + [0] * (size - len(ids))].clone()
    for i, place in enumerate(where if vectors else []):
        x[place] = vectors[0][i]
    x = x + state["positional_embedding"]
    layers = sum(1 for name in state if name.startswith("transformer.") and name.endswith("ln_1.weight"))
    for layer in range(layers):
        if 0 < layer < len(vectors):
            x = x.clone()
            for i in range(len(vectors[layer])):
                x[where[i]] = vectors[layer][i]
        x = block(x, state, f"transformer.resblocks.{layer}", heads_of(x.shape[1]), causal=True)
    return layer_norm(x, state, "ln_final") @ state["text_projection"]


def image(state: State, picture: Tensor, vectors: list[Tensor]) -> Tensor:
    """Outputs (1 + O + b, D) of one picture (3, H, W): CLS, patches, prompts; ``vectors[i]`` (b, d) enters block i."""
    kernel = state["visual.conv1.weight"]
    p = kernel.shape[-1]
    rows = [state["visual.class_embedding"]]
    for top in range(0, picture.shape[1], p):
        for left in range(0, picture.shape[2], p):
            rows.append((kernel * picture[:, top : top + p, left : left + p]).sum((1, 2, 3)))
    x = torch.stack(rows) + state["visual.positional_embedding"]
    if vectors:
        x = torch.cat([x, vectors[0]])
    x = layer_norm(x, state, "visual.ln_pre")
    layers = sum(1 for name in state if name.startswith("visual.transformer.") and name.endswith("ln_1.weight"))
    for layer in range(layers):
        if 0 < layer < len(vectors):
            x = torch.cat([x[: len(x) - len(vectors[layer])], vectors[layer]])
        x = block(x, state, f"visual.transformer.resblocks.{layer}", heads_of(x.shape[1]), causal=False)
    return layer_norm(x, state, "visual.ln_post") @ state["visual.proj"]


def attention_pool(state: State, features: Tensor, heads: int) -> Tensor:
    """Outputs (1 + h * w, D) of CLIP's ResNet pooling of a feature map (C, h, w), each position a query."""
    x = features.flatten(1).T
    x = torch.cat([x.mean(0, keepdim=True), x]) + state["visual.attnpool.positional_embedding"]
    q, k, v, c = (f"visual.attnpool.{name}_proj" for name in "qkvc")
    q, k, v = (x @ state[f"{name}.weight"].T + state[f"{name}.bias"] for name in (q, k, v))
    return attend(q, k, v, heads, causal=False) @ state[f"{c}.weight"].T + state[f"{c}.bias"]
