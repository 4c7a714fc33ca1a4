"""Layout of the text positions that the tower runs: each shared prefix once, then suffixes grouped by length.

Attention is causal, so positions at the start of a prompt that are equal for all classes (SOS, context, fixed words)
have the same outputs for all classes. The suffix of a class ends at EOS, or at the last position of its token set.

Shape letters: N prompts, K classes (k in a chunk), T positions of the longest prompt, P of the longest prefix, S of a
suffix, b context positions, L of the largest token set, X suffix positions of a chunk.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prompting.clip.blocks import check_shape, common_number
from prompting.clip.tokens import PromptTokens

Vectors = Sequence[Tensor | None]  # the context and the deep prompts


class Group(NamedTuple):
    """Suffixes of equal length behind prefixes of equal length: one dense batch.

    Attributes:
        prompts: (g,) the prompt of each suffix, an index below N.
        prefix: length of the prefixes.
        length: S, length of the suffixes.
        mask: (S, prefix + S) bool, the positions that a suffix position attends to.
        early_mask: the same in the blocks before inserted positions, which are hidden there.
    """

    prompts: Tensor
    prefix: int
    length: int
    mask: Tensor
    early_mask: Tensor


class Chunk(NamedTuple):
    """The suffixes of some classes. Their positions are numbered group by group, 0 to X - 1.

    Attributes:
        classes: the k classes.
        groups: the groups, in the order of their positions.
        ids: (X,) token ids.
        positions: (X,) positions in the prompt, which index the position embeddings.
        eos: (N, k) indices of the EOS positions, below X.
        context: (N, k, b) indices of the context positions; None if they are in the prefix.
        token_set: (N, k, L) indices into the N * P prefix positions followed by the X suffix positions; None without a
            token set. The padding of a set with fewer than L positions is arbitrary.
    """

    classes: slice
    groups: list[Group]
    ids: Tensor
    positions: Tensor
    eos: Tensor
    context: Tensor | None
    token_set: Tensor | None

    def insert(self, x: Tensor, vectors: Tensor | None) -> Tensor:
        """Replace the first b' context positions in x (X, d) by vectors (N|1, [K,] b', d), if there are any."""
        if self.context is None or vectors is None:
            return x
        vectors = vectors[:, self.classes] if vectors.dim() == 4 else vectors.unsqueeze(1)
        rows = self.context[..., : vectors.shape[2]]
        return x.index_copy(0, rows.flatten(), vectors.to(x.dtype).expand(*rows.shape, -1).reshape(-1, x.shape[1]))


def lay_out(
    tokens: PromptTokens,
    vectors: Vectors = (),
    token_set: Tensor | None = None,
    inserted: bool = False,
    share_prefix: bool = True,
    classes_at_once: int | None = None,
) -> tuple[Chunk | None, list[Chunk], Tensor | None]:
    """Find the shared prefixes and group the suffixes.

    Args:
        tokens: the prompts; their leading axis is N or 1.
        vectors: the context and the deep prompts, (N|1, b, d) or class-specific (N|1, K, b, d). A shared prefix ends
            before class-specific vectors.
        token_set: (N|1, K, T) bool, the positions whose outputs are returned; None is EOS only.
        inserted: the context positions are inserted before a later block: they count for no position, and early blocks
            do not attend to them.
        share_prefix: False runs all T positions of every prompt, with P = 0, in one group.
        classes_at_once: classes of a chunk, 1 or more; None is all K.

    Returns:
        prefix: the N prefixes of length P as one group, or None if P is 0. Shorter prefixes are padded with arbitrary
            tokens, whose outputs are never used. All tensors are on the CPU.
        chunks: the suffixes.
        mask: (K, N, L) bool, valid entries of the token sets; None without a token set or if all are valid.

    Raises:
        ValueError: different numbers of prompts, a token set of another shape, or inserted positions that differ
            between prompts.
    """
    given = [v for v in vectors if v is not None]
    n, (classes, length) = common_number("text", [len(tokens.ids), *map(len, given)]), tokens.ids.shape[1:]
    tokens = PromptTokens(*(field.cpu().expand(n, *field.shape[1:]) for field in tokens))
    ids, eos, context, _ = tokens
    prefix = torch.minimum((ids == ids[:, :1]).all(1).long().cumprod(-1).sum(-1), eos.amin(1)) * share_prefix  # (N,)
    if given and context.shape[2]:  # learned vectors are all in the prefix or all in the suffix
        common = (context == context[:, :1]) & (context < prefix[:, None, None])
        if not common.all() or any(v.dim() == 4 for v in given):
            prefix = torch.minimum(prefix, context.amin((1, 2)))
    if inserted and bool((context != context[:1, :1]).any()):
        raise ValueError("inserted context positions differ between prompts; they must be the same in all")
    hidden = context[0, 0] if inserted else context.new_empty(0)
    last = eos if share_prefix else torch.full_like(eos, length - 1)  # (N, K)
    sets = mask = None
    if token_set is not None:
        check_shape("token_set", token_set, [(rows, classes, length) for rows in sorted({1, n})])
        token_set, order = token_set.cpu().expand(ids.shape), torch.arange(length)
        last, sizes = torch.maximum(last, (token_set * order).amax(-1)), token_set.sum(-1)
        # (N, K, L): the positions of each set in ascending order, then padding.
        sets = torch.where(token_set, order, length).sort(-1).values[..., : int(sizes.max())].clamp(max=length - 1)
        mask = (torch.arange(sets.shape[2]) < sizes.unsqueeze(-1)).transpose(0, 1)
        mask = None if bool(mask.all()) else mask
    shared, step = int(prefix.max()), classes_at_once or classes
    ends = torch.zeros_like(prefix), torch.full_like(eos, shared - 1)  # first and last positions of the prefixes
    prefixes = _chunk(tokens, slice(1), 0, *ends, hidden, None) if shared else None
    chunks = [_chunk(tokens, slice(k, k + step), shared, prefix, last, hidden, sets) for k in range(0, classes, step)]
    return prefixes, chunks, mask


def _chunk(
    tokens: PromptTokens, classes: slice, shared: int, prefix: Tensor, last: Tensor, hidden: Tensor, sets: Tensor | None
) -> Chunk:
    """Group the suffixes of some classes, positions prefix (N,) to last (N, K), by their lengths. The N prefixes before
    them have ``shared`` positions each. Early blocks do not attend to the positions hidden (b,); sets is (N, K, L)."""
    (ids, eos, context, _), last, starts = tokens.select(classes), last[:, classes], prefix.unsqueeze(1)
    lengths, groups, places = last + 1 - starts, [], []
    for p, s in sorted(set(zip(starts.expand_as(lengths).flatten().tolist(), lengths.flatten().tolist()))):
        prompts, members = ((starts == p) & (lengths == s)).nonzero(as_tuple=True)
        mask = torch.ones(s, p + s, dtype=torch.bool).tril(p)
        groups.append(Group(prompts, p, s, mask, mask.index_fill(1, hidden[hidden < p + s], False)))
        positions = torch.arange(p, p + s).repeat(len(prompts))
        places.append((prompts.repeat_interleave(s), members.repeat_interleave(s), positions))
    place = tuple(torch.cat(part) for part in zip(*places))  # prompt, class and position of each suffix row
    before = len(ids) * shared
    rows = torch.zeros_like(ids)  # row of each position, the prefixes' first
    rows[..., :shared] = torch.arange(before).view(len(ids), 1, shared)
    rows[place] = before + torch.arange(len(place[0]))
    positions = place[2] - (place[2].unsqueeze(1) > hidden).sum(1)
    in_suffix = bool(((context >= starts.unsqueeze(2)) & (context <= last.unsqueeze(2))).all())
    context_rows = rows.gather(2, context) - before if in_suffix else None
    set_rows = None if sets is None else rows.gather(2, sets[:, classes])
    eos_rows = rows.gather(2, eos.unsqueeze(-1)).squeeze(-1) - before
    return Chunk(classes, groups, ids[place], positions, eos_rows, context_rows, set_rows)
