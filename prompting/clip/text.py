"""CLIP's text tower with prompts passed in as data.

Shape letters: K classes (k in a chunk), N text prompts, b prompt length, T positions of a prompt, P of the prefix that
all classes share, X suffix positions in a chunk, L text tokens, D embedding width, d_l tower width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from prompting.clip import adapters as adapting
from prompting.clip import blocks
from prompting.clip.adapters import BlockAdapter
from prompting.clip.blocks import BlockFunctions
from prompting.clip.layout import Chunk, Group, Vectors, lay_out
from prompting.clip.shape import text_tower, tower_dtype
from prompting.clip.tokens import PromptTokens

KeyValues = Sequence[Optional[tuple[Tensor, Tensor]]]  # for each block, keys and values (N, P, d_l) of the prefixes


class _Learned(NamedTuple):
    """What a call puts into the tower; see ``TextEncoder.forward``."""

    vectors: Vectors
    insert_at: int
    adapters: list[BlockAdapter | None]  # of the input and of each block


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
        self.functions = BlockFunctions()
        self.eval()

    def forward(
        self,
        tokens: PromptTokens,
        context: Tensor | None = None,
        deep: Sequence[Tensor | None] = (),
        *,
        insert_at: int = 0,
        adapters: Sequence[BlockAdapter | None] = (),
        token_set: Tensor | None = None,
        detach_tokens: bool = False,
    ) -> TextFeatures:
        """Encode N prompts of K classes.

        Args:
            tokens: the prompts; their leading axis is N, or 1 if the fixed words are the same for all prompts.
            context: learned vectors (N, b, d_l), or class-specific (N, K, b, d_l); None keeps the words of the prompt.
            deep: at most layers - 1 tensors (N, b', d_l) or (N, K, b', d_l) with b' <= b, or None; ``deep[i]`` replaces
                the first b' context positions before block i + 1 (block 0 reads ``context``).
            insert_at: block before which the context positions are inserted, to take ``deep[insert_at - 1]``; they have
                no position embedding then, and are the same in all prompts. 0 is the input.
            adapters: ``adapters[0].output``, a function of the token embeddings, is added to them; ``adapters[i]`` acts
                in block i - 1. None, and a shorter list, leave a block as it is.
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
        if insert_at:
            blocks.check_inserted(vectors, insert_at, tokens.context.shape[2])
        share = blocks.can_split(self.transformer)
        learned = _Learned(vectors, insert_at, adapting.pad_adapters(adapters, layers))
        at_once, inserted = self.classes_at_once, insert_at > 0
        with _disable_current_modes():  # to torch.export, the layout of the tokens is a constant
            layout = lay_out(tokens, vectors, token_set, inserted=inserted, share_prefix=share, classes_at_once=at_once)
            layout = tree_map_only(Tensor, lambda tensor: tensor.to(weight.device), layout)
        prefix_kv: KeyValues = [None] * layers
        prefix_outputs = None
        if layout.prefix is not None:
            last, prefix_kv = self._run(layout.prefix, learned, prefix_kv, keep=True)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
                prefix_outputs = self._finish(learned, *last)
        run = partial(self._run_suffixes, learned, prefix_kv, prefix_outputs, detach_tokens)
        parts = [blocks.maybe_recompute(len(layout.chunks) > 1, run, chunk) for chunk in layout.chunks]
        prompt, *outputs = (torch.cat(part) for part in zip(*parts))
        return TextFeatures(prompt, outputs[0] if outputs else None, layout.mask)

    def _run_suffixes(
        self, learned: _Learned, prefix_kv: KeyValues, prefix_outputs: Tensor | None, detach_tokens: bool, chunk: Chunk
    ) -> tuple[Tensor, ...]:
        """Return the outputs (k, N, D) at EOS and, with a token set, (k, N, L, D)."""
        last, _ = self._run(chunk, learned, prefix_kv)
        # In the last block, only positions that are returned run after the attention.
        at_eos = [part.index_select(0, chunk.eos.flatten()) for part in last]
        prompt = self._finish(learned, *at_eos).unflatten(0, chunk.eos.shape).transpose(0, 1)
        if chunk.token_set is None:
            return (prompt,)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
            outputs = self._finish(learned, *last)
            outputs = outputs if prefix_outputs is None else torch.cat([prefix_outputs, outputs])
            return prompt, F.embedding(chunk.token_set.transpose(0, 1), outputs)

    def _run(
        self, chunk: Chunk, learned: _Learned, prefix_kv: KeyValues, keep: bool = False
    ) -> tuple[tuple[Tensor, ...], KeyValues]:
        """Run a chunk up to the attention of the last block.

        Returns:
            Inputs (X, d_l) and attention outputs of the last block, or its outputs alone if blocks cannot be split; and
            keys and values of each block with ``keep``.
        """
        split, kept = blocks.can_split(self.transformer), []
        vectors, insert_at, (input_adapter, *adapters) = learned
        x = self.token_embedding(chunk.ids).to(tower_dtype(self))
        x = adapting.adapt_input(chunk.insert(x, vectors[0]), input_adapter)
        x = x + self.positional_embedding[chunk.positions].to(x.dtype)
        for i, (block, adapter) in enumerate(zip(self.transformer.resblocks, adapters)):
            x = chunk.insert(x, vectors[i]) if 0 < i < len(vectors) else x
            recompute, groups = i < self.recompute_blocks, chunk.groups if i >= insert_at else chunk.early_groups
            if not split:  # whole prompts are one group
                (_, _, length, mask), whole = groups[0], partial(adapting.whole_block, self.transformer, block)
                x = blocks.maybe_recompute(recompute, whole, x.unflatten(0, (-1, length)), mask, adapter).flatten(0, 1)
                continue
            functions = adapting.adapt(self.functions, adapter)
            if i + 1 < len(prefix_kv):
                x, *kv = blocks.maybe_recompute(recompute, self._block, functions, block, groups, prefix_kv[i], x)
            else:
                attended, *kv = self._attend(functions, block, groups, prefix_kv[i], x)
            if keep:
                kept.append(tuple(part.unflatten(0, (-1, chunk.groups[0].length)) for part in kv))
        return (x, attended) if split else (x,), kept

    def _block(
        self, functions: BlockFunctions, block: Any, groups: list[Group], prefix_kv: Any, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of a block for the rows x (X, d_l) of all groups, and their keys and values."""
        attended, k, v = self._attend(functions, block, groups, prefix_kv, x)
        return functions.finish(block, x, attended), k, v

    def _attend(
        self, functions: BlockFunctions, block: Any, groups: list[Group], prefix_kv: Any, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the attention outputs of a block for the rows x (X, d_l) of all groups, and their keys and values."""
        projected, parts = functions.project_in(block, x, len(x)), []
        sizes = [len(group.prompts) * group.length for group in groups]
        for group, *qkv in zip(groups, *(part.split(sizes) for part in projected)):
            q, k, v = (part.unflatten(0, (-1, group.length)) for part in qkv)  # (g, S, d_l)
            if group.prefix:
                k, v = (group.prepend_prefix(shared, part) for shared, part in zip(prefix_kv, (k, v)))
            parts.append(blocks.attend(q, k, v, block.attn.num_heads, group.mask).flatten(0, 1))
        return torch.cat(parts), *projected[1:]

    def _finish(self, learned: _Learned, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """Finish the last block at some positions x (..., d_l), and map its outputs to (..., D)."""
        if attended is not None:
            functions = adapting.adapt(self.functions, learned.adapters[-1])
            x = functions.finish(self.transformer.resblocks[-1], x, attended)
        return blocks.project_out(self.ln_final(x), self.text_projection)
