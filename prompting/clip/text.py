"""CLIP's text tower with prompts passed in as data.

Shape letters: K classes (k in a chunk), N text prompts, b prompt length, T positions of a prompt, P of the prefix that
all classes share, X suffix positions in a chunk, L text tokens, D embedding width, d_l tower width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prompting.clip import blocks
from prompting.clip.layout import Chunk, Group, Vectors, lay_out
from prompting.clip.shape import text_tower, tower_dtype
from prompting.clip.tokens import PromptTokens

KeyValues = Sequence[Optional[tuple[Tensor, Tensor]]]  # for each block, keys and values (N, P, d_l) of the prefixes


class TextFeatures(NamedTuple):
    """Outputs of the text tower: ``prompt`` (K, N, D) at EOS; ``tokens`` (K, N, L, D) at the positions of the token
    set, in their order, or None; ``mask`` (K, N, L) bool of the valid tokens, None if all are."""

    prompt: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class TextEncoder(blocks.Frozen):
    """CLIP's text tower for prompts that contain learned vectors.

    The prefix that all classes share runs once per prompt; the suffixes attend to its keys and values. Attention runs
    on one dense batch per length, the rest of a block on all suffixes together. The outputs equal those of whole
    prompts up to rounding. The modules of the tower are shared with the CLIP model, not copied.

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

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        tower = text_tower(clip)
        self.token_embedding: nn.Embedding = tower.token_embedding
        self.positional_embedding: nn.Parameter = tower.positional_embedding
        self.transformer: Any = tower.transformer
        self.ln_final: nn.Module = tower.ln_final
        self.text_projection: Any = tower.text_projection
        self.classes_at_once: int | None = None
        self.recompute_blocks = 0
        self.functions = blocks.BlockFunctions()
        self.eval()

    def forward(
        self,
        tokens: PromptTokens,
        context: Tensor | None = None,
        deep: Sequence[Tensor] = (),
        *,
        token_set: Tensor | None = None,
        detach_tokens: bool = False,
    ) -> TextFeatures:
        """Encode N prompts of K classes.

        Args:
            tokens: the prompts; their leading axis is N, or 1 if the fixed words are the same for all prompts.
            context: learned vectors (N, b, d_l), or class-specific (N, K, b, d_l); None keeps the words of the prompt.
            deep: at most layers - 1 tensors (N, b', d_l) or (N, K, b', d_l) with b' <= b; ``deep[i]`` replaces the
                first b' context positions before block i + 1 (block 0 reads ``context``).
            token_set: bool (N|1, K, T); also return the outputs at these positions (L is the size of the largest set).
            detach_tokens: return ``tokens`` without a gradient, and skip their backward pass in the last block.

        Returns:
            ``prompt`` (K, N, D), not normalised; ``tokens`` (K, N, L, D) or None, both in the tower's dtype; ``mask``.

        Raises:
            ValueError: for shapes that do not fit the tokens or the tower, and for too many deep prompts.

        Source: ALIGN (arXiv 2309.13847), section 3.1; deep prompts: MaPLe (arXiv 2210.03117), section 3.2.1.
        """
        vectors, layers, weight = (context, *deep), len(self.transformer.resblocks), self.token_embedding.weight
        blocks.check_prompts("text", context, deep, layers, (*tokens.context.shape[1:], weight.shape[1]))
        share = blocks.can_split(self.transformer)
        layout = lay_out(tokens, vectors, token_set, share_prefix=share, classes_at_once=self.classes_at_once)
        layout = tree_map_only(Tensor, lambda tensor: tensor.to(weight.device), layout)
        prefix_kv: KeyValues = [None] * layers
        prefix_outputs = None
        if layout.prefix is not None:
            last, prefix_kv = self._run(layout.prefix, vectors, prefix_kv, keep=True)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
                prefix_outputs = self._finish(*last)
        run = partial(self._run_suffixes, vectors, prefix_kv, prefix_outputs, detach_tokens)
        parts = [blocks.maybe_recompute(len(layout.chunks) > 1, run, chunk) for chunk in layout.chunks]
        prompt, *outputs = (torch.cat(part) for part in zip(*parts))
        return TextFeatures(prompt, outputs[0] if outputs else None, layout.mask)

    def _run_suffixes(
        self, vectors: Vectors, prefix_kv: KeyValues, prefix_outputs: Tensor | None, detach_tokens: bool, chunk: Chunk
    ) -> tuple[Tensor, ...]:
        """Return the outputs (k, N, D) at EOS and, with a token set, (k, N, L, D)."""
        last, _ = self._run(chunk, vectors, prefix_kv)
        # In the last block, only positions that are returned run after the attention.
        at_eos = [part.index_select(0, chunk.eos.flatten()) for part in last]
        prompt = self._finish(*at_eos).unflatten(0, chunk.eos.shape).transpose(0, 1)
        if chunk.token_set is None:
            return (prompt,)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
            outputs = self._finish(*last)
            outputs = outputs if prefix_outputs is None else torch.cat([prefix_outputs, outputs])
            return prompt, F.embedding(chunk.token_set.transpose(0, 1), outputs)

    def _run(
        self, chunk: Chunk, vectors: Vectors, prefix_kv: KeyValues, keep: bool = False
    ) -> tuple[tuple[Tensor, ...], KeyValues]:
        """Run a chunk up to the attention of the last block.

        Returns:
            Inputs (X, d_l) and attention outputs of the last block, or its outputs alone if blocks cannot be split; and
            keys and values of each block with ``keep``.
        """
        split, kept = blocks.can_split(self.transformer), []
        x = self.token_embedding(chunk.ids).to(tower_dtype(self))
        x = chunk.insert(x, vectors[0]) + self.positional_embedding[chunk.positions].to(x.dtype)
        for i, block in enumerate(self.transformer.resblocks):
            x = chunk.insert(x, vectors[i]) if 0 < i < len(vectors) else x
            recompute = i < self.recompute_blocks
            if not split:  # whole prompts are one group
                (_, _, length, mask), whole = chunk.groups[0], partial(blocks.whole_block, self.transformer, block)
                x = blocks.maybe_recompute(recompute, whole, x.unflatten(0, (-1, length)), mask).flatten(0, 1)
                continue
            if i + 1 < len(prefix_kv):
                x, *kv = blocks.maybe_recompute(recompute, self._block, block, chunk.groups, prefix_kv[i], x)
            else:
                attended, *kv = self._attend(block, chunk.groups, prefix_kv[i], x)
            if keep:
                kept.append(tuple(part.unflatten(0, (-1, chunk.groups[0].length)) for part in kv))
        return (x, attended) if split else (x,), kept

    def _block(self, block: Any, groups: list[Group], prefix_kv: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of a block for the rows x (X, d_l) of all groups, and their keys and values."""
        attended, k, v = self._attend(block, groups, prefix_kv, x)
        return self.functions.finish(block, x, attended), k, v

    def _attend(self, block: Any, groups: list[Group], prefix_kv: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the attention outputs of a block for the rows x (X, d_l) of all groups, and their keys and values."""
        projected, parts = self.functions.project_in(block, x, len(x)), []
        sizes = [len(group.prompts) * group.length for group in groups]
        for group, *qkv in zip(groups, *(part.split(sizes) for part in projected)):
            q, k, v = (part.unflatten(0, (-1, group.length)) for part in qkv)  # (g, S, d_l)
            if group.prefix:
                k, v = (group.prepend_prefix(shared, part) for shared, part in zip(prefix_kv, (k, v)))
            parts.append(blocks.attend(q, k, v, block.attn.num_heads, group.mask).flatten(0, 1))
        return torch.cat(parts), *projected[1:]

    def _finish(self, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """Finish the last block at some positions x (..., d_l), and map its outputs to (..., D)."""
        if attended is not None:
            x = self.functions.finish(self.transformer.resblocks[-1], x, attended)
        return blocks.project_out(self.ln_final(x), self.text_projection)
