"""CLIP's text tower with prompts passed in as data.

Shape letters: K classes, N text prompts, b prompt length, T text positions, P of a prefix that all classes share, S of
what follows it, L text tokens, D embedding width, d_l the tower's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prompting.clip.blocks import (
    Frozen,
    Steps,
    attend,
    can_split,
    check_deep,
    check_shape,
    common_number,
    nothing,
    on_both_passes,
    project_out,
    recomputed,
    run_whole,
)
from prompting.clip.layout import Chunk, Layout, lay_out
from prompting.clip.mlp import Scratch
from prompting.clip.shape import text_tower, tower_dtype
from prompting.clip.tokens import PromptTokens, clean_name, clip_tokenizer


class TextFeatures(NamedTuple):
    """What the text tower gives: ``prompt`` (K, N, D) at EOS; ``tokens`` (K, N, L, D) at the positions asked for, in
    their order, or None; ``mask`` (K, N, L) bool of the valid tokens, None where all are."""

    prompt: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class TextEncoder(Frozen):
    """CLIP's text tower for prompts with learned vectors in them.

    Registers the parts of the tower it runs (shared with the CLIP it was made from, not copied), so that the parameters
    of a text and a vision encoder do not overlap.

    Positions that open all classes' prompts alike (SOS, the context, words before the class name) are run once a
    prompt; the classes' own positions, up to EOS, are run without padding and attend to the keys and values of those.
    The outputs are those of whole prompts to rounding.

    Args:
        clip: a loaded open_clip model.

    Attributes:
        classes_at_once: classes run together; with fewer than K, each such part is recomputed in the backward pass, so
            that memory does not grow with K. None is all of them.
        between: is called with each part of the classes, in both passes, where prompts are learned.
        plain: run all T positions of every prompt through the blocks as they are; what all else is compared with.
        steps: the parts of a block, as they are or compiled.

    Raises:
        ValueError: if its text tower is of a kind that cannot be prompted.
    """

    token_embedding: nn.Embedding
    transformer: Any
    text_projection: Any
    attn_mask: Tensor

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        tower = text_tower(clip)
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.register_buffer("attn_mask", tower.attn_mask, persistent=False)
        self.classes_at_once: int | None = None
        self.between: Callable[[], None] = nothing
        self.plain = False
        self.steps = Steps()
        self._scratch = Scratch()
        self._last_layout: tuple[Any, Layout | None] = (None, None)
        self.eval()

    def forward(
        self,
        tokens: PromptTokens,
        context: Tensor | None = None,
        deep: Sequence[Tensor] = (),
        *,
        return_tokens: bool = False,
        token_set: Tensor | None = None,
        constant_tokens: bool = False,
    ) -> TextFeatures:
        """Encode N prompts of K classes.

        Args:
            tokens: the prompts; their leading axis is N, or 1 if the fixed words are the same for all prompts.
            context: learned vectors (N, b, d_l), or class-specific (N, K, b, d_l); None keeps the words of the prompt.
            deep: at most layers - 1 tensors (N, b', d_l) or (N, K, b', d_l) with b' <= b; ``deep[i]`` replaces the
                first b' context positions before block i + 1 (block 0 reads ``context``).
            return_tokens: also return the outputs at every position (L = T).
            token_set: bool (N|1, K, T); also return the outputs at these positions (L the largest set's size).
            constant_tokens: those carry no gradient, and nothing is kept or computed for one.

        Returns:
            ``prompt`` (K, N, D), not normalised; ``tokens`` (K, N, L, D) or None; both in the tower's dtype; ``mask``.

        Raises:
            ValueError: for shapes that do not fit the tokens or the tower, and for too many deep prompts.

        Source: ALIGN (arXiv 2309.13847), section 3.1; deep prompts: MaPLe (arXiv 2210.03117), section 3.2.1.
        """
        classes, b = tokens.context.shape[1:]
        d_l = self.token_embedding.weight.shape[1]
        check_deep(len(deep), len(self.transformer.resblocks))
        if context is not None:
            check_shape("context", context, [(-1, b, d_l), (-1, classes, b, d_l)])
        for i, vectors in enumerate(deep):
            length = min(vectors.shape[-2], b) if vectors.dim() > 1 else b
            check_shape(f"deep text prompt {i}", vectors, [(-1, length, d_l), (-1, classes, length, d_l)])
        given = [v for v in (context, *deep) if v is not None]
        n = common_number("text", [tokens.ids.shape[0], *(v.shape[0] for v in given)])
        if token_set is None and return_tokens:
            token_set = torch.ones((1, 1, 1), dtype=torch.bool).expand(tokens.ids.shape)
        if token_set is not None:
            sizes = [(rows, *tokens.ids.shape[1:]) for rows in sorted({1, n})]
            check_shape("token_set", token_set, sizes)

        specific = any(v.dim() == 4 for v in given)
        layout = self.layout(tokens, n, learned=bool(given), class_specific=specific, token_set=token_set)
        if layout is None:
            found = self._whole(tokens, context, deep, n, token_set)
            if found.tokens is None or not constant_tokens:
                return found
            return found._replace(tokens=found.tokens.detach())
        apart = constant_tokens and token_set is not None and torch.is_grad_enabled()
        self._scratch.clear()
        prefix, opening = self._prefix(layout, context, deep, apart)
        recompute = len(layout.chunks) > 1 and torch.is_grad_enabled()
        start, parts = 0, []
        for chunk in layout.chunks:
            some = slice(start, start + chunk.size[1])
            start = some.stop
            own = None if context is None else _of_classes(context, some)
            run = (chunk, prefix, opening, own, [_of_classes(vectors, some) for vectors in deep], apart)
            parts.append(checkpoint(self._suffix, *run, use_reentrant=False) if recompute else self._suffix(*run))
            on_both_passes(parts[-1][0], self.between)
        prompt, read = (torch.cat(part) if part[0] is not None else None for part in zip(*parts))
        assert prompt is not None  # for the type checker: every chunk has one
        return TextFeatures(prompt, read, layout.mask)

    def layout(
        self,
        tokens: PromptTokens,
        n: int,
        *,
        learned: bool = True,
        class_specific: bool = False,
        token_set: Tensor | None = None,
        step: int | None = None,
    ) -> Layout | None:
        """Return which positions are run for these prompts; None where whole prompts are (see ``lay_out``).

        Args:
            tokens, n, learned, class_specific, token_set: as for ``lay_out``.
            step: classes at once; ``classes_at_once`` by default.
        """
        if self.plain or not can_split(self.transformer):
            return None
        step, device = step or self.classes_at_once, self.token_embedding.weight.device
        # The same prompts come again each step: keep their layout, and what it was made of, so that no id is reused.
        made_of = [t for t in (*tokens, token_set) if t is not None]
        key = (n, learned, class_specific, step, device, [(id(t), t._version) for t in made_of])
        if self._last_layout[0] is None or self._last_layout[0][0] != key:
            layout = lay_out(
                tokens,
                n,
                learned=learned,
                class_specific=class_specific,
                token_set=token_set,
                step=step,
                device=device,
            )
            self._last_layout = ((key, made_of), layout)
        return self._last_layout[1]

    def _embed(self, ids: Tensor, places: Tensor | slice, where: Tensor | None, context: Tensor | None) -> Tensor:
        """Embed tokens, put the context at ``where``, and add positions."""
        x = self.token_embedding(ids).to(tower_dtype(self))
        if where is not None and context is not None:
            x = _place(x, where, context)
        return x + self.positional_embedding[places].to(x.dtype)

    def _prefix(
        self, layout: Layout, context: Tensor | None, deep: Sequence[Tensor], apart: bool
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """Run the prefixes; return keys and values (N, P, d) of each block, and the outputs (N * P, D) if read, which
        ``apart`` carry no gradient."""
        n, p = layout.prefix_ids.shape
        x, kept = self._embed(layout.prefix_ids, slice(0, p), layout.context, context), []
        blocks = self.transformer.resblocks
        for i, block in enumerate(blocks):
            if layout.context is not None and 0 < i <= len(deep):
                x = _place(x, layout.context, deep[i - 1])
            q, k, v = self.steps.project_in(block, x)
            kept.append((k, v))
            if i + 1 < len(blocks):
                x = self._finish(block, x, attend(q, k, v, block.attn.num_heads, causal=True))
        if not layout.reads_prefix:
            return kept, None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not apart):
            x = self._finish(blocks[-1], x, attend(q, k, v, blocks[-1].attn.num_heads, causal=True))
            return kept, self._project(x).flatten(0, 1)

    def _finish(self, block: Any, x: Tensor, attended: Tensor) -> Tensor:
        """Run what follows a block's attention."""
        return self.steps.finish(block, x, attended, scratch=self._scratch)

    def _project(self, x: Tensor) -> Tensor:
        """Map outputs (..., d_l) to (..., D)."""
        return project_out(self.ln_final(x), self.text_projection)

    def _suffix(
        self,
        chunk: Chunk,
        prefix: list[tuple[Tensor, Tensor]],
        opening: Tensor | None,
        context: Tensor | None,
        deep: Sequence[Tensor],
        apart: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the classes' own positions; return the outputs (K, N, D) at EOS and (K, N, L, D) of the token sets, which
        ``apart`` carry no gradient."""
        n, classes, s = chunk.size
        blocks = self.transformer.resblocks
        x = self._embed(chunk.ids, chunk.places, chunk.context, context)  # (X, d)

        def padded(part: Tensor) -> Tensor:  # (X, d) -> (N * K, S, d)
            if len(part) < n * classes * s:
                part = _Spread.apply(part, chunk.slots, n * classes * s)
            return part.unflatten(0, (n * classes, s))

        def behind(opened: Tensor, part: Tensor) -> Tensor:  # (N, P, d), (X, d) -> (N * K, P + S, d)
            opened = opened.unsqueeze(1).expand(-1, classes, -1, -1).flatten(0, 1)
            return torch.cat([opened, padded(part)], 1)

        def attended(i: int, x: Tensor) -> Tensor:  # (X, d) -> (N * K * S, d)
            block = blocks[i]
            q, k, v = self.steps.project_in(block, x)
            k, v = behind(prefix[i][0], k), behind(prefix[i][1], v)
            return attend(padded(q), k, v, block.attn.num_heads, chunk.mask).flatten(0, 1)

        def finished(i: int, x: Tensor, out: Tensor, rows: Tensor | None = None) -> Tensor:
            slots, x = (chunk.slots, x) if rows is None else (chunk.slots[rows], x.index_select(0, rows))
            return self._finish(blocks[i], x, out if len(slots) == len(out) else out.index_select(0, slots))

        def run(i: int, x: Tensor) -> Tensor:
            return finished(i, x, attended(i, x))

        last = len(blocks) - 1
        for i in range(last + 1):
            if chunk.context is not None and 0 < i <= len(deep):
                x = _place(x, chunk.context, deep[i - 1])
            if i < last:
                x = recomputed(self.transformer, partial(run, i), x)
        out = attended(last, x)
        # Nobody reads the last block's other outputs, and of constant ones EOS alone is asked for a gradient.
        if apart:
            eos = chunk.keep[chunk.eos]  # (N, K) among the X
            prompt = self._project(finished(last, x, out, eos.flatten())).unflatten(0, eos.shape).transpose(0, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not apart):
            y = self._project(finished(last, x, out, chunk.keep))  # (Y, D)
            if not apart:
                prompt = F.embedding(chunk.eos.transpose(0, 1), y)  # (K, N, D)
            if chunk.gather is None:
                return prompt, None
            pool = y if opening is None else torch.cat([opening, y])
            shift = n * prefix[0][0].shape[1] if opening is None else 0
            return prompt, F.embedding((chunk.gather - shift).clamp(min=0).transpose(0, 1), pool)  # (K, N, L, D)

    def _whole(
        self, tokens: PromptTokens, context: Tensor | None, deep: Sequence[Tensor], n: int, token_set: Tensor | None
    ) -> TextFeatures:
        """Run all T positions of every prompt through the blocks as they are."""
        tokens = tokens.to(self.token_embedding.weight.device)
        x = self.token_embedding(tokens.ids).to(tower_dtype(self))  # (N|1, K, T, d_l)
        classes, length = x.shape[1:3]
        x = x.expand(n, -1, -1, -1)
        if context is not None:
            x = self._insert(x, tokens.context, context)
        x = x + self.positional_embedding[:length].to(x.dtype)
        mask = self.attn_mask[:length, :length].to(x.device)

        def before(i: int, x: Tensor) -> Tensor:
            return self._insert(x.unflatten(0, (n, classes)), tokens.context, deep[i]).flatten(0, 1)

        x = run_whole(self.transformer, x.flatten(0, 1), mask, before, len(deep))  # (N * K, T, d_l)
        x = x.unflatten(0, (n, classes))
        prompt = self._project(_pick(x, tokens.eos.unsqueeze(-1))).squeeze(2)
        if token_set is None:
            return TextFeatures(prompt.transpose(0, 1))
        token_set = token_set.to(x.device).expand(n, -1, -1)
        counts = token_set.sum(-1)  # (N, K)
        size_l = int(counts.max())
        order = torch.arange(length, device=x.device)
        where = torch.where(token_set, order, length).sort(-1).values[..., :size_l].clamp(max=length - 1)
        found = self._project(_pick(x, where))  # (N, K, L, D)
        valid = (torch.arange(size_l, device=x.device) < counts.unsqueeze(-1)).transpose(0, 1)
        return TextFeatures(prompt.transpose(0, 1), found.transpose(0, 1), None if bool(valid.all()) else valid)

    @staticmethod
    def _insert(x: Tensor, where: Tensor, vectors: Tensor) -> Tensor:
        """Put vectors (N|1, [K,] b', d) at the first b' of the positions ``where`` (N|1, K, b) of x (N, K, T, d)."""
        if vectors.dim() == 3:
            vectors = vectors.unsqueeze(1)  # (N|1, 1, b', d)
        shape = (*x.shape[:2], vectors.shape[2], x.shape[3])
        index = where[..., : shape[2]].unsqueeze(-1).expand(shape)
        return x.scatter(2, index, vectors.to(x.dtype).expand(shape))


class _Spread(torch.autograd.Function):
    """Rows (X, d) at the places ``slots`` (X,) of ``size`` rows, zeros at the others; keeps no copy of the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slots: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(slots)
        return rows.new_zeros(size, rows.shape[1]).index_copy_(0, slots, rows)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream.index_select(0, ctx.saved_tensors[0]), None, None


def _of_classes(vectors: Tensor, classes: slice) -> Tensor:
    """Return the vectors (N|1, b, d), or of class-specific ones (N|1, K, b, d) those of some classes."""
    return vectors if vectors.dim() == 3 else vectors[:, classes]


def _place(x: Tensor, where: Tensor, vectors: Tensor) -> Tensor:
    """Put vectors (N|1, [K,] b', d) at the first b' of the places ``where``: (N, b) in x (N, P, d), or (N, K, b) in a
    packed x (X, d)."""
    where = where[..., : vectors.shape[-2]]
    if where.dim() == 3 and vectors.dim() == 3:
        vectors = vectors.unsqueeze(1)  # (N|1, 1, b', d)
    vectors = vectors.to(x.dtype).expand(*where.shape, -1)
    if x.dim() == 3:
        return x.scatter(1, where.unsqueeze(-1).expand(vectors.shape), vectors)
    return x.index_copy(0, where.flatten(), vectors.reshape(-1, x.shape[-1]))


def _pick(x: Tensor, where: Tensor) -> Tensor:
    """Pick (N, K, l, d) out of x (N, K, T, d) at positions ``where`` (N|1, K, l)."""
    return x.gather(2, where.unsqueeze(-1).expand(*x.shape[:2], -1, x.shape[3]))


def word_vectors(clip: nn.Module, text: str, length: int | None = None, tokenizer: Any = None) -> Tensor:
    """Return the token embeddings of words, from which learned vectors can start.

    Args:
        clip: a loaded open_clip model.
        text: the words; underscores are read as spaces.
        length: how many tokens to take, from the first on; None takes all.
        tokenizer: CLIP's BPE tokenizer by default.

    Returns:
        (length, d_l) float32, detached.

    Raises:
        ValueError: if the words have fewer tokens than ``length``.
    """
    ids = (tokenizer or clip_tokenizer()).encode(clean_name(text))
    if length is not None and len(ids) < length:
        raise ValueError(f"{text!r} has {len(ids)} tokens, fewer than the {length} vectors that start from them")
    return text_tower(clip).token_embedding.weight[ids[:length]].detach().float()
