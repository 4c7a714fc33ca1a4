"""Which text positions have to be run at all: prefixes shared by all classes, and what follows them, packed.

Attention is causal, so a position's output depends on what stands before it only. Positions that open every class's
prompt in the same way (SOS, the context, words before the class name) therefore have the same outputs for all classes;
and nothing reads positions behind EOS, unless a token set does.

Shape letters: n prompts, K classes, T positions of the longest prompt, P positions of the longest prefix, S of the
longest suffix, L of the largest token set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prompting.clip.tokens import PromptTokens


class Chunk(NamedTuple):
    """Some of the classes: their suffixes, one behind the other (prompts slowest, then classes, then positions).

    Attributes:
        ids: (X,) token ids of the X suffix positions that are run.
        places: (X,) where in its prompt each stands.
        slots: (X,) where each stands in a padded (n * K * S) arrangement.
        keep: (Y,) which of the X are read from the last block.
        eos: (n, K) where EOS stands among those Y.
        context: (n, K, b) where the context stands among the X; None where it stands in the prefix.
        mask: bool (1, 1, S, P + S) or (n * K, 1, S, P + S), which positions a suffix position sees.
        gather: (n, K, L) where the token set stands among the n * P prefix positions followed by the Y; or None.
        size: (n, K, S).
    """

    ids: Tensor
    places: Tensor
    slots: Tensor
    keep: Tensor
    eos: Tensor
    context: Tensor | None
    mask: Tensor
    gather: Tensor | None
    size: tuple[int, int, int]


class Layout(NamedTuple):
    """All prompts: the prefixes, and the classes in chunks.

    Attributes:
        prefix_ids: (n, P) token ids; behind a shorter prefix anything, which nothing reads.
        context: (n, b) where the context stands in the prefixes; None where it stands in the suffixes.
        reads_prefix: whether a token set reads outputs of prefix positions.
        chunks: the classes, in their order.
        mask: (K, n, L) bool, the valid entries of the token sets; None without a set or where all are.
        positions: how many positions are run, prefixes and suffixes together.
    """

    prefix_ids: Tensor
    context: Tensor | None
    reads_prefix: bool
    chunks: list[Chunk]
    mask: Tensor | None
    positions: int


def lay_out(
    tokens: PromptTokens,
    n: int,
    *,
    learned: bool = True,
    class_specific: bool = False,
    token_set: Tensor | None = None,
    step: int | None = None,
    device: torch.device | str = "cpu",
) -> Layout | None:
    """Find the shared prefixes and pack what follows them.

    Args:
        tokens: the prompts; their leading axis is n or 1.
        n: number of prompts.
        learned: whether vectors take the places of the context (else its words stay).
        class_specific: whether those vectors differ between classes, which ends the prefix before them.
        token_set: (n|1, K, T) bool, the positions whose outputs are read; None reads EOS only.
        step: classes a chunk holds; None is all of them.
        device: where the indices go.

    Returns:
        The layout, or None if there is a prompt without a prefix.
    """
    ids, eos, context, _ = (field.cpu().expand(n, *field.shape[1:]) for field in tokens)
    wanted = None if token_set is None else token_set.cpu().expand(ids.shape)
    same = (ids == ids[:, :1]).all(1).long().cumprod(-1).sum(-1)  # (n,)
    prefix = torch.minimum(same, eos.amin(1))  # EOS is each class's own
    inside = not class_specific and bool((context == context[:, :1]).all() and (context < prefix[:, None, None]).all())
    if learned and context.shape[2] and not inside:
        prefix = torch.minimum(prefix, context.amin((1, 2)))
    if int(prefix.min()) < 1:
        return None
    size_l, mask = 0, None
    if wanted is not None:
        counts = wanted.sum(-1)  # (n, K)
        size_l = int(counts.max())
        mask = (torch.arange(size_l) < counts.unsqueeze(-1)).transpose(0, 1)  # (K, n, L)
    kept = context if learned and context.shape[2] else None
    p, classes = int(prefix.max()), ids.shape[1]
    step = classes if step is None else max(1, min(step, classes))
    chunks, positions = [], n * p
    for start in range(0, classes, step):
        some = slice(start, start + step)
        chunk = _pack(
            ids[:, some],
            eos[:, some],
            None if kept is None or inside else kept[:, some],
            None if wanted is None else wanted[:, some],
            prefix,
            size_l,
        )
        positions += len(chunk.ids)
        on_device: Any = {k: v.to(device) for k, v in chunk._asdict().items() if isinstance(v, Tensor)}
        chunks.append(chunk._replace(**on_device))
    return Layout(
        ids[:, 0, :p].to(device),
        kept[:, 0].to(device) if kept is not None and inside else None,
        wanted is not None and bool((wanted & (torch.arange(ids.shape[2]) < prefix[:, None, None])).any()),
        chunks,
        None if mask is None or bool(mask.all()) else mask.to(device),
        positions,
    )


def _pack(
    ids: Tensor, eos: Tensor, context: Tensor | None, wanted: Tensor | None, prefix: Tensor, size_l: int
) -> Chunk:
    """Pack the suffixes of some classes; arguments as in ``lay_out``, already of n prompts and of these classes."""
    n, classes, length = ids.shape
    last, order = eos, torch.arange(length)
    if wanted is not None:
        last = torch.maximum(last, (wanted * order).amax(-1))
    lengths = last + 1 - prefix[:, None]  # (n, K), at least 1
    s, p = int(lengths.max()), int(prefix.max())
    valid = torch.arange(s) < lengths.unsqueeze(-1)  # (n, K, S)
    places = (prefix[:, None, None] + torch.arange(s)).expand(valid.shape)
    rank = _rank(valid)

    read = valid & (places == eos.unsqueeze(-1))
    if wanted is not None:
        read |= valid & wanted.gather(2, places.clamp(max=length - 1))
    keep = read[valid].nonzero().squeeze(1)
    among_kept = _rank(read)  # (n, K, S)

    gather = None
    if wanted is not None:
        # The set's positions in their order, those that are not in it behind them.
        found = torch.where(wanted, order, length).sort(-1).values[..., :size_l]  # (n, K, L)
        in_prefix = found < prefix[:, None, None]
        before = torch.arange(n)[:, None, None] * p + found
        behind = n * p + among_kept.gather(2, (found - prefix[:, None, None]).clamp(0, s - 1))
        gather = torch.where(in_prefix, before, behind).where(found < length, torch.zeros_like(found))

    seen = torch.ones(s, s, dtype=torch.bool).tril()
    opening = torch.arange(p) < prefix[:, None]  # (n, P)
    if bool(opening.all()):
        mask = torch.cat([torch.ones(s, p, dtype=torch.bool), seen], 1)[None, None]  # (1, 1, S, P + S)
    else:
        rows = torch.cat([opening[:, None].expand(n, s, p), seen.expand(n, s, s)], 2)  # (n, S, P + S)
        mask = rows.repeat_interleave(classes, 0).unsqueeze(1)
    return Chunk(
        ids.gather(2, places.clamp(max=length - 1))[valid],
        places[valid],
        valid.flatten().nonzero().squeeze(1),
        keep,
        among_kept.gather(2, (eos - prefix[:, None]).unsqueeze(-1)).squeeze(-1),
        None if context is None else rank.gather(2, context - prefix[:, None, None]),
        mask,
        gather,
        (n, classes, s),
    )


def _rank(chosen: Tensor) -> Tensor:
    """Number the True entries in their order, in the shape of ``chosen``; what stands at the others means nothing."""
    return (chosen.flatten().cumsum(0) - 1).clamp(min=0).view(chosen.shape)
