"""Layout of the text positions that the tower runs: each shared prefix once, then suffixes grouped by length.

Attention is causal, so the output at a position depends only on earlier positions. Positions at the start of a prompt
that are equal for all classes (SOS, the context, fixed words) therefore have the same outputs for all classes. The
suffix of a class ends at EOS, or at the last position of its token set.

Shape letters: N prompts, K classes (k in a chunk or group), T positions of the longest prompt, P of the longest prefix,
S of a suffix, b context positions, L of the largest token set, X suffix positions of a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prompting.clip.tokens import PromptTokens


class Group(NamedTuple):
    """Suffixes of equal length behind prefixes of equal length: one dense batch of n prompts times k classes.

    Attributes:
        prompts: (n,) indices of the prompts, below N.
        classes: k, the number of classes.
        prefix: length of the prefixes.
        length: S, length of the suffixes.
        mask: (S, prefix + S) bool, the positions that a suffix position attends to.
    """

    prompts: Tensor
    classes: int
    prefix: int
    length: int
    mask: Tensor

    @property
    def rows(self) -> int:
        """Number of suffix positions, n * k * S."""
        return len(self.prompts) * self.classes * self.length

    def prepend_prefix(self, shared: Tensor, part: Tensor) -> Tensor:
        """Put keys or values of the prefixes (N, P, d) in front of those of the suffixes (n, k, S, d)."""
        shared = shared.index_select(0, self.prompts)[:, None, : self.prefix]
        return torch.cat([shared.expand(-1, self.classes, -1, -1), part], 2)


class Chunk(NamedTuple):
    """The suffixes of some classes. Their positions are numbered group by group, 0 to X - 1.

    Attributes:
        classes: (k,) indices of the classes, below K.
        groups: the groups, in the order of their positions.
        ids: (X,) token ids.
        positions: (X,) positions in the prompt.
        eos: (N, k) indices of the EOS positions, below X.
        context: (N, k, b) indices of the context positions; None if they are in the prefix or there are none.
        token_set: (N, k, L) indices into the N * P prefix positions followed by the X suffix positions; None without a
            token set. The padding of a set with fewer than L positions is arbitrary.
    """

    classes: Tensor
    groups: list[Group]
    ids: Tensor
    positions: Tensor
    eos: Tensor
    context: Tensor | None
    token_set: Tensor | None

    def select(self, vectors: Tensor | None) -> Tensor | None:
        """Select the classes of class-specific vectors (N|1, K, b, d); return shared vectors (N|1, b, d) unchanged."""
        return vectors if vectors is None or vectors.dim() == 3 else vectors.index_select(1, self.classes)

    def insert(self, x: Tensor, vectors: Tensor | None) -> Tensor:
        """Replace the first b' context positions in x (X, d) by vectors (N|1, [k,] b', d), if there are any."""
        if self.context is None or vectors is None:
            return x
        vectors = vectors if vectors.dim() == 4 else vectors.unsqueeze(1)
        rows = self.context[..., : vectors.shape[2]]
        return x.index_copy(0, rows.flatten(), vectors.to(x.dtype).expand(*rows.shape, -1).reshape(-1, x.shape[1]))


class Layout(NamedTuple):
    """The shared prefixes of all prompts, and their suffixes in chunks of classes.

    Attributes:
        prefix: the N prefixes of length P as one group of one class, or None if P is 0. Shorter prefixes are padded
            with arbitrary tokens, whose outputs are never used.
        chunks: the classes. If there are several chunks, the classes are sorted by the length of their suffixes.
        order: (K,) index that restores the order of the classes; None if there is one chunk.
        mask: (K, N, L) bool, valid entries of the token sets; None without a token set or if all are valid.
    """

    prefix: Chunk | None
    chunks: list[Chunk]
    order: Tensor | None
    mask: Tensor | None

    @property
    def positions(self) -> int:
        """Number of positions that are run, prefixes and suffixes together."""
        return sum(len(chunk.ids) for chunk in [*self.chunks, *([self.prefix] if self.prefix else [])])


def lay_out(
    tokens: PromptTokens,
    n: int,
    *,
    learned: bool = True,
    class_specific: bool = False,
    share_prefix: bool = True,
    token_set: Tensor | None = None,
    classes_at_once: int | None = None,
) -> Layout:
    """Find the shared prefixes and group the suffixes.

    Args:
        tokens: the prompts; their leading axis is N or 1.
        n: N, the number of prompts.
        learned: whether learned vectors replace the context words.
        class_specific: whether the vectors differ between classes; the shared prefix then ends before the context.
        share_prefix: False runs all T positions of every prompt, with P = 0, in one group.
        token_set: (N|1, K, T) bool, the positions whose outputs are returned; None is EOS only.
        classes_at_once: classes of a chunk, 1 or more; None is all K.

    Returns:
        The layout, on the CPU.
    """
    ids, eos, context, _ = (field.cpu().expand(n, *field.shape[1:]) for field in tokens)
    classes, length = ids.shape[1:]
    prefix = torch.minimum((ids == ids[:, :1]).all(1).long().cumprod(-1).sum(-1), eos.amin(1)) * share_prefix  # (N,)
    learned = learned and context.shape[2] > 0
    context_shared = bool((context == context[:, :1]).all() and (context < prefix[:, None, None]).all())
    in_prefix = learned and context_shared and not class_specific
    if learned and not in_prefix:
        prefix = torch.minimum(prefix, context.amin((1, 2)))
    sets = mask = None
    last = eos if share_prefix else torch.full_like(eos, length - 1)  # (N, K)
    if token_set is not None:
        token_set, order = token_set.cpu().expand(ids.shape), torch.arange(length)
        last, sizes = torch.maximum(last, (token_set * order).amax(-1)), token_set.sum(-1)
        # (N, K, L): the positions of each set in ascending order, then padding.
        sets = torch.where(token_set, order, length).sort(-1).values[..., : int(sizes.max())].clamp(max=length - 1)
        mask = (torch.arange(sets.shape[2]) < sizes.unsqueeze(-1)).transpose(0, 1)
    # Prompts with equal prefix length form one batch; a class runs the longest of their suffixes.
    batches = [(prefix == p).nonzero().squeeze(1) for p in prefix.unique()]
    spans = torch.stack([last[prompts].amax(0) + 1 - prefix[prompts[0]] for prompts in batches])  # (batches, K)
    longest, class_order, restore = int(prefix.max()), torch.arange(classes), None
    if classes_at_once is not None and classes_at_once < classes:
        class_order = torch.tensor(sorted(range(classes), key=lambda k: spans[:, k].tolist()))
        restore = class_order.argsort()
    chunks = []
    for chosen in class_order.split(classes_at_once or classes):
        groups, index = _group(batches, prefix, spans[:, chosen])
        row = torch.zeros(n, len(chosen), length, dtype=torch.int64)  # of each position, in prefixes + suffixes
        row[:, :, :longest] = torch.arange(n * longest).view(n, 1, longest)
        row[index] = n * longest + torch.arange(len(index[0]))
        rows = (
            row.gather(2, eos[:, chosen].unsqueeze(-1)).squeeze(-1) - n * longest,
            row.gather(2, context[:, chosen]) - n * longest if learned and not in_prefix else None,
            None if sets is None else row.gather(2, sets[:, chosen]),
        )
        chunks.append(Chunk(chosen, groups, ids[:, chosen][index], index[2], *rows))
    prefix_chunk = None
    if longest:
        groups, index = _group([torch.arange(n)], torch.zeros_like(prefix), torch.tensor([[longest]]))
        row = torch.arange(n * longest).view(n, 1, longest)
        rows = row[..., 0], row.gather(2, context[:, :1]) if in_prefix else None, None
        prefix_chunk = Chunk(torch.arange(1), groups, ids[index], index[2], *rows)
    return Layout(prefix_chunk, chunks, restore, None if mask is None or bool(mask.all()) else mask)


def _group(batches: list[Tensor], prefix: Tensor, spans: Tensor) -> tuple[list[Group], tuple[Tensor, ...]]:
    """Group the suffixes of some classes by length.

    Args:
        batches: the prompts with equal prefix length, one tensor of indices for each length.
        prefix: (N,) lengths of the prefixes.
        spans: (batches, k) lengths of the suffixes.

    Returns:
        The groups, and prompt, class and position of each suffix position (X,), in the order of the groups.
    """
    groups, index = [], []
    for prompts, lengths in zip(batches, spans):
        p = int(prefix[prompts[0]])
        for s in lengths.unique().tolist():
            members, positions = (lengths == s).nonzero().squeeze(1), torch.arange(p, p + s)
            groups.append(Group(prompts, len(members), p, s, torch.ones(s, p + s, dtype=torch.bool).tril(p)))
            index.append([part.flatten() for part in torch.meshgrid(prompts, members, positions, indexing="ij")])
    return groups, tuple(torch.cat(parts) for parts in zip(*index))
