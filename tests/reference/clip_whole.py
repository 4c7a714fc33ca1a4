"""CLIP with prompts through unmodified open_clip blocks: whole prompts and images, nothing shared or skipped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prompting.clip import PromptTokens, TextFeatures, VisualFeatures


def blocks(transformer: nn.Module, x: Tensor, replace, mask: Tensor | None = None) -> Tensor:
    """Run x (batch, length, d); ``replace(i, x)`` puts the deep prompts in front of block i + 1."""
    for i, block in enumerate(transformer.resblocks):
        x = replace(i - 1, x) if i else x
        x = (
            block(x, attn_mask=mask)
            if transformer.batch_first
            else block(x.transpose(0, 1), attn_mask=mask).transpose(0, 1)
        )
    return x


def text(
    model: nn.Module,
    tokens: PromptTokens,
    context: Tensor | None,
    deep: Sequence[Tensor] = (),
    token_set: Tensor | None = None,
) -> TextFeatures:
    n = max([len(tokens.ids), *(len(v) for v in (context, *deep) if v is not None)])
    ids, eos, where, _ = (field.expand(n, *field.shape[1:]) for field in tokens)

    def insert(x: Tensor, vectors: Tensor) -> Tensor:  # (N, K, T, d), (N|1, [K,] b', d)
        vectors = vectors if vectors.dim() == 4 else vectors.unsqueeze(1)
        index = where[..., : vectors.shape[2], None].expand(-1, -1, -1, x.shape[3])
        return x.scatter(2, index, vectors.to(x.dtype).expand(index.shape))

    x = model.token_embedding(ids)
    x = (x if context is None else insert(x, context)) + model.positional_embedding[: ids.shape[2]]
    mask = model.attn_mask[: ids.shape[2], : ids.shape[2]]

    def replace(i: int, x: Tensor) -> Tensor:
        return insert(x.unflatten(0, ids.shape[:2]), deep[i]).flatten(0, 1) if i < len(deep) else x

    out = model.ln_final(blocks(model.transformer, x.flatten(0, 1), replace, mask)) @ model.text_projection
    out = out.unflatten(0, ids.shape[:2])
    prompt = out.gather(2, eos[..., None, None].expand(-1, -1, 1, out.shape[3])).squeeze(2).transpose(0, 1)
    if token_set is None:
        return TextFeatures(prompt)
    chosen = [[out[i, k, token_set.expand(ids.shape)[i, k]] for i in range(n)] for k in range(ids.shape[1])]
    sizes = torch.tensor([[len(part) for part in row] for row in chosen])
    longest = int(sizes.max())
    found = torch.stack(
        [torch.stack([nn.functional.pad(p, (0, 0, 0, longest - len(p))) for p in row]) for row in chosen]
    )
    mask = torch.arange(longest) < sizes.unsqueeze(-1)
    return TextFeatures(prompt, found, None if bool(mask.all()) else mask)


def images(model: nn.Module, pictures: Tensor, prompts: Tensor | None, deep: Sequence[Tensor] = ()) -> VisualFeatures:
    visual, given = model.visual, [v for v in (prompts, *deep) if v is not None]
    m = max([1, *(len(v) for v in given)])
    x = visual.conv1(pictures).flatten(2).transpose(1, 2)
    cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    x = torch.cat([cls, x], 1) + visual.positional_embedding.to(x.dtype)  # in half precision as open_clip's own
    x = x.unsqueeze(1).expand(-1, m, -1, -1)

    def each(vectors: Tensor) -> Tensor:
        return vectors.to(x.dtype).expand(m, -1, -1).expand(len(pictures), -1, -1, -1)

    x = visual.ln_pre(x if prompts is None else torch.cat([x, each(prompts)], 2)).flatten(0, 1)

    def replace(i: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, : -deep[i].shape[1]], each(deep[i]).flatten(0, 1)], 1) if i < len(deep) else x

    out = (visual.ln_post(blocks(visual.transformer, x, replace)) @ visual.proj).unflatten(0, (-1, m))
    return VisualFeatures(out[:, :, 0], out[:, :, 1:])
