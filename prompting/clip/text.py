"""CLIP's text tower with prompts passed in as data.

Shape letters: K classes (k in a chunk), N text prompts, b prompt length, T positions of a prompt, P of the prefix that
all classes share, S of a suffix, X suffix positions in a chunk, L text tokens, D embedding width, d_l tower width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prompting.clip.blocks import (
    BlockFunctions,
    Frozen,
    attend,
    can_split,
    check_deep,
    check_shape,
    common_number,
    maybe_recompute,
    project_out,
    whole_block,
)
from prompting.clip.layout import Chunk, Group, Layout, lay_out
from prompting.clip.shape import text_tower, tower_dtype
from prompting.clip.tokens import PromptTokens

KeyValue = tuple[Tensor, Tensor]  # keys and values (N, P, d_l) of the prefixes in a block
Vectors = Sequence[Optional[Tensor]]  # the context and the deep prompts


class TextFeatures(NamedTuple):
    """Outputs of the text tower: ``prompt`` (K, N, D) at EOS; ``tokens`` (K, N, L, D) at the positions of the token
    set, in their order, or None; ``mask`` (K, N, L) bool of the valid tokens, None if all are."""

    prompt: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class TextEncoder(Frozen):
    """CLIP's text tower for prompts that contain learned vectors.

    Positions at the start of a prompt that are equal for all classes (SOS, the context, fixed words) run once per
    prompt. The remaining positions of each class, up to EOS, attend to the keys and values of that prefix. They are
    grouped by length, so that attention runs on dense batches; the rest of a block runs on all groups together. The
    outputs equal those of whole prompts up to rounding.

    The modules of the tower are shared with the CLIP model, not copied.

    Args:
        clip: a loaded open_clip model.

    Attributes:
        classes_at_once: classes run together; None is all K. With fewer, each chunk is recomputed in the backward pass,
            so that activation memory does not grow with K.
        recompute_blocks: number of blocks, from the first, whose activations are recomputed in the backward pass.
        functions: the parts of a block, eager or compiled.

    Raises:
        ValueError: if the text tower is of a kind that cannot be prompted.
    """

    token_embedding: nn.Embedding
    transformer: Any
    text_projection: Any

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        tower = text_tower(clip)
        self.token_embedding = tower.token_embedding
        self.positional_embedding = tower.positional_embedding
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        self.classes_at_once: int | None = None
        self.recompute_blocks = 0
        self.functions = BlockFunctions()
        self.eval()

    def forward(
        self,
        tokens: PromptTokens,
        context: Tensor | None = None,
        deep: Sequence[Tensor] = (),
        *,
        return_tokens: bool = False,
        token_set: Tensor | None = None,
        detach_tokens: bool = False,
    ) -> TextFeatures:
        """Encode N prompts of K classes.

        Args:
            tokens: the prompts; their leading axis is N, or 1 if the fixed words are the same for all prompts.
            context: learned vectors (N, b, d_l), or class-specific (N, K, b, d_l); None keeps the words of the prompt.
            deep: at most layers - 1 tensors (N, b', d_l) or (N, K, b', d_l) with b' <= b; ``deep[i]`` replaces the
                first b' context positions before block i + 1 (block 0 reads ``context``).
            return_tokens: also return the outputs at every position (L = T).
            token_set: bool (N|1, K, T); also return the outputs at these positions (L is the size of the largest set).
            detach_tokens: return ``tokens`` without a gradient, and skip their backward pass in the last block.

        Returns:
            ``prompt`` (K, N, D), not normalised; ``tokens`` (K, N, L, D) or None, both in the tower's dtype; ``mask``.

        Raises:
            ValueError: for shapes that do not fit the tokens or the tower, and for too many deep prompts.

        Source: ALIGN (arXiv 2309.13847), section 3.1; deep prompts: MaPLe (arXiv 2210.03117), section 3.2.1.
        """
        classes, b = tokens.context.shape[1:]
        d_l = self.token_embedding.weight.shape[1]
        check_deep(len(deep), len(self.transformer.resblocks))
        if context is not None:
            check_shape("context", context, [(-1, b, d_l), (-1, classes, b, d_l)])
        for i, prompts in enumerate(deep):
            length = min(prompts.shape[-2], b) if prompts.dim() > 1 else b
            check_shape(f"deep text prompt {i}", prompts, [(-1, length, d_l), (-1, classes, length, d_l)])
        if token_set is None and return_tokens:
            token_set = torch.ones_like(tokens.ids, dtype=torch.bool)
        vectors = (context, *deep)
        layout = self.layout(tokens, vectors, token_set, self.classes_at_once)
        device, split = self.token_embedding.weight.device, can_split(self.transformer)
        layout = tree_map_only(Tensor, lambda tensor: tensor.to(device), layout)
        prefix_kv, prefix_outputs = self._run_prefix(layout.prefix, vectors, detach_tokens)
        parts = []
        for chunk in layout.chunks:
            selected = [chunk.select(v) for v in vectors]
            run = partial(self._run_suffix, chunk, selected, prefix_kv, prefix_outputs, detach_tokens, split)
            parts.append(maybe_recompute(len(layout.chunks) > 1, run))
        outputs = [torch.cat(part) for part in zip(*parts)]
        if layout.order is not None:
            outputs = [part.index_select(0, layout.order) for part in outputs]
        return TextFeatures(outputs[0], None if token_set is None else outputs[1], layout.mask)

    def layout(
        self, tokens: PromptTokens, vectors: Vectors, token_set: Tensor | None, classes_at_once: int | None = None
    ) -> Layout:
        """Return the layout of the positions that ``forward`` runs; its tensors are on the CPU.

        Args:
            tokens, token_set: as for ``forward``.
            vectors: the context and the deep prompts.
            classes_at_once: classes of a chunk; None is all K.
        """
        given = [v for v in vectors if v is not None]
        n = common_number("text", [tokens.ids.shape[0], *(v.shape[0] for v in given)])
        if token_set is not None:
            check_shape("token_set", token_set, [(rows, *tokens.ids.shape[1:]) for rows in sorted({1, n})])
        return lay_out(
            tokens,
            n,
            learned=bool(given),
            class_specific=any(v.dim() == 4 for v in given),
            share_prefix=can_split(self.transformer),
            token_set=token_set,
            classes_at_once=classes_at_once,
        )

    def _run_prefix(
        self, chunk: Chunk | None, vectors: Vectors, detach_tokens: bool
    ) -> tuple[list[KeyValue | None], Tensor | None]:
        """Run the shared prefixes, if any; return keys and values of each block, and the outputs (N * P, D)."""
        blocks = self.transformer.resblocks
        if chunk is None:
            return [None] * len(blocks), None
        x, (group,) = self._embed(chunk, vectors), chunk.groups
        kept: list[KeyValue | None] = []
        for i, block in enumerate(blocks):
            x = chunk.insert(x, _deep(vectors, i))
            q, k, v = (part.unflatten(0, (-1, group.length)) for part in self.functions.project_in(block, x, len(x)))
            kept.append((k, v))
            attended = attend(q, k, v, block.attn.num_heads, group.mask).flatten(0, 1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not (detach_tokens and i + 1 == len(blocks))):
                x = self.functions.finish(block, x, attended)
        return kept, self._project(x)

    def _run_suffix(
        self,
        chunk: Chunk,
        vectors: Vectors,
        prefix_kv: list[KeyValue | None],
        prefix_outputs: Tensor | None,
        detach_tokens: bool,
        split: bool,
    ) -> tuple[Tensor, ...]:
        """Run the suffixes of a chunk; return the outputs (k, N, D) at EOS and (k, N, L, D) of the token sets."""
        blocks = self.transformer.resblocks
        recompute_all = getattr(self.transformer, "grad_checkpointing", False)
        x = self._embed(chunk, vectors)
        for i, block in enumerate(blocks[:-1] if split else blocks):
            x = chunk.insert(x, _deep(vectors, i))
            run = partial(self._block, block, chunk.groups, prefix_kv[i], split)
            x = maybe_recompute(recompute_all or i < self.recompute_blocks, run, x)
        if split:
            # In the last block, only positions that are returned run after the attention.
            x = chunk.insert(x, _deep(vectors, len(blocks) - 1))
            attended = self._attend(blocks[-1], chunk.groups, prefix_kv[-1], x)

        def outputs(rows: Tensor) -> Tensor:
            y = x.index_select(0, rows)
            return self._project(self.functions.finish(blocks[-1], y, attended.index_select(0, rows)) if split else y)

        prompt = outputs(chunk.eos.flatten()).unflatten(0, chunk.eos.shape).transpose(0, 1)
        if chunk.token_set is None:
            return (prompt,)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
            suffix_outputs = outputs(torch.arange(len(x), device=x.device))
            pool = suffix_outputs if prefix_outputs is None else torch.cat([prefix_outputs, suffix_outputs])
            return prompt, F.embedding(chunk.token_set.transpose(0, 1), pool)

    def _block(self, block: Any, groups: list[Group], prefix_kv: KeyValue | None, split: bool, x: Tensor) -> Tensor:
        """Run a block on the suffixes x (X, d_l) of all groups."""
        if split:
            return self.functions.finish(block, x, self._attend(block, groups, prefix_kv, x))
        x = x.unflatten(0, (-1, groups[0].length))  # whole prompts are one group
        return whole_block(self.transformer, block, x, groups[0].mask).flatten(0, 1)

    def _attend(self, block: Any, groups: list[Group], prefix_kv: KeyValue | None, x: Tensor) -> Tensor:
        """Return the attention outputs of a block for the suffixes x (X, d_l) of all groups."""
        projected = self.functions.project_in(block, x, len(x))
        parts = []
        for group, *qkv in zip(groups, *(part.split([group.rows for group in groups]) for part in projected)):
            shape = (len(group.prompts), group.classes, group.length)
            q, k, v = (part.unflatten(0, shape) for part in qkv)  # (n, k, S, d)
            if prefix_kv is not None and group.prefix:
                k, v = (group.prepend_prefix(shared, part) for shared, part in zip(prefix_kv, (k, v)))
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            parts.append(attend(q, k, v, block.attn.num_heads, group.mask).flatten(0, 1))
        return torch.cat(parts)

    def _embed(self, chunk: Chunk, vectors: Vectors) -> Tensor:
        """Embed the tokens of a chunk (X, d_l), with the context in place and position embeddings added."""
        x = self.token_embedding(chunk.ids).to(tower_dtype(self))
        x = chunk.insert(x, vectors[0])
        return x + self.positional_embedding[chunk.positions].to(x.dtype)

    def _project(self, x: Tensor) -> Tensor:
        """Map outputs (..., d_l) to (..., D)."""
        return project_out(self.ln_final(x), self.text_projection)


def _deep(vectors: Vectors, i: int) -> Tensor | None:
    """Return the deep prompts that block i replaces the context by, if it has any."""
    return vectors[i] if 0 < i < len(vectors) else None
