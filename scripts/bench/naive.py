"""ALIGN's `released` reading without any optimization: the baseline of the benchmarks, written from docs/methods.md.

Every text prompt is padded to the full context, every image is encoded M times, no feature is kept between batches, and
the transport is solved in Python loops over images and classes that test for convergence after each iteration.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def text_features(model: Any, context: Tensor, deep: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the outputs at EOS (K, N, D) and everywhere (K, N, context length, D)."""
    clip, tokens = model.clip, model.tokens
    full = clip.positional_embedding.shape[0]
    ids = F.pad(tokens.ids, (0, full - tokens.ids.shape[2])).to(context.device)  # (N, K, full)
    x = clip.token_embedding(ids)
    n, classes, b = *ids.shape[:2], context.shape[1]

    def put(x: Tensor, vectors: Tensor) -> Tensor:
        return torch.cat([x[:, :, :1], vectors.unsqueeze(1).expand(-1, classes, -1, -1), x[:, :, 1 + b :]], 2)

    x = put(x, context) + clip.positional_embedding
    for i, block in enumerate(clip.transformer.resblocks):
        if 0 < i <= len(deep):
            x = put(x, deep[i - 1])
        x = block(x.flatten(0, 1), attn_mask=clip.attn_mask).unflatten(0, (n, classes))
    x = (clip.ln_final(x) @ clip.text_projection).transpose(0, 1)  # (K, N, full, D)
    return x[torch.arange(classes)[:, None], torch.arange(n), tokens.eos.T], x


def image_features(model: Any, images: Tensor, prompts: Tensor, deep: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the outputs at CLS (B, M, D) and at patches and prompts (B, M, J, D)."""
    visual, (m, b) = model.clip.visual, prompts.shape[:2]
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    cls = visual.class_embedding.expand(len(x), 1, -1)
    x = (torch.cat([cls, x], 1) + visual.positional_embedding).repeat_interleave(m, 0)
    x = visual.ln_pre(torch.cat([x, prompts.repeat(len(images), 1, 1)], 1))
    for i, block in enumerate(visual.transformer.resblocks):
        if 0 < i <= len(deep):
            x = torch.cat([x[:, :-b], deep[i - 1].repeat(len(images), 1, 1)], 1)
        x = block(x)
    x = (visual.ln_post(x) @ visual.proj).unflatten(0, (-1, m))
    return x[:, :, 0], x[:, :, 1:]


@torch.no_grad()
def plan(cost: Tensor, lam: float = 0.1, tol: float = 0.01, most: int = 100) -> Tensor:
    """Return plans of costs (problems, rows, columns); the mean change of r over all of them is the stop rule."""
    kernel = torch.exp(-cost / lam)
    r, c = torch.ones_like(cost[:, :, 0]), torch.ones_like(cost[:, 0])
    for _ in range(most):
        before = r
        r = (1 / cost.shape[1]) / torch.matmul(kernel, c.unsqueeze(-1)).squeeze(-1)
        c = (1 / cost.shape[2]) / torch.matmul(kernel.transpose(1, 2), r.unsqueeze(-1)).squeeze(-1)
        if (r - before).abs().mean().item() < tol:
            break
    return r.unsqueeze(2) * kernel * c.unsqueeze(1)


def logits(model: Any, images: Tensor) -> Tensor:
    """Return the logits (B, K) of an MMP model."""
    learned = model.prompt_learner()
    h, s = text_features(model, learned.text, learned.deep_text)
    z, r = image_features(model, images, learned.visual, learned.deep_visual)
    with torch.autocast(images.device.type, enabled=False):  # the transport is float32, whatever the towers are
        z, h, r, s = (F.normalize(part.float(), dim=-1) for part in (z, h, r, s))
        cosine, costs = torch.einsum("bmd,knd->bkmn", z, h), []
        for b in range(len(z)):
            for k in range(len(h)):
                last = int(model.tokens.eos[0, k]) - 1
                near = torch.einsum("mjd,nld->mnjl", r[b], s[k, :, :last]).flatten(0, 1)  # (M * N, J, L)
                term = (plan(1 - near) * near).sum((1, 2)).view(cosine.shape[2:])
                costs.append(1 - cosine[b, k] + term.detach())
        transport = plan(torch.stack(costs)).view(cosine.shape)
        return model.logit_scale * (transport * cosine).sum((2, 3))
