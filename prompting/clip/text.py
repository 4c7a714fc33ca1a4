"""CLIP's text tower with prompts passed in as data.

Shape letters as in ``layout.py``, and D embedding width, d_l tower width, g suffixes of a group.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from prompting.clip import adapters as adapting
from prompting.clip import blocks
from prompting.clip.adapters import BlockAdapter
from prompting.clip.layout import Chunk, Group, Vectors, lay_out
from prompting.clip.shape import text_tower, tower_dtype
from prompting.clip.tokens import PromptTokens

Adapters = Sequence[BlockAdapter | None]  # of the input and of each block
KeyValues = Sequence[tuple[Tensor, ...] | None]  # for each block, keys and values (N, P, d_l) of the prefixes


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
        blocks.check_inserted(vectors, insert_at, tokens.context.shape[2])
        split = blocks.can_split(self.transformer)
        with _disable_current_modes():  # to torch.export, the layout of the tokens is a constant
            layout = lay_out(tokens, vectors, token_set, insert_at > 0, split, self.classes_at_once)
            prefix, chunks, mask = tree_map_only(Tensor, lambda tensor: tensor.to(weight.device), layout)
        places = adapting.pad_adapters(adapters, layers)
        run, finish = partial(self._run, vectors, insert_at, places, split), partial(self._finish, places[-1])
        prefix_kv: KeyValues = [None] * layers
        prefix_outputs = []
        if prefix is not None:
            last, prefix_kv = run(prefix, None)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
                prefix_outputs = [finish(*last)]

        def run_suffixes(chunk: Chunk) -> tuple[Tensor, ...]:
            """Return the outputs (k, N, D) at EOS and, with a token set, (k, N, L, D)."""
            last, _ = run(chunk, prefix_kv)
            # In the last block, only positions that are returned run after the attention.
            at_eos = finish(*(part.index_select(0, chunk.eos.flatten()) for part in last))
            prompt = at_eos.unflatten(0, chunk.eos.shape).transpose(0, 1)
            if chunk.token_set is None:
                return (prompt,)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
                outputs = torch.cat([*prefix_outputs, finish(*last)])
                return prompt, F.embedding(chunk.token_set.transpose(0, 1), outputs)

        parts = [blocks.maybe_recompute(len(chunks) > 1, run_suffixes, chunk) for chunk in chunks]
        return TextFeatures(*map(torch.cat, zip(*parts)))._replace(mask=mask)

    def _run(
        self, vectors: Vectors, insert_at: int, places: Adapters, split: bool, chunk: Chunk, prefix_kv: KeyValues | None
    ) -> tuple[tuple[Tensor, ...], KeyValues]:
        """Run a chunk up to the attention of the last block. Return the block's inputs (X, d_l) and attention outputs,
        or its outputs alone if blocks cannot be split; and for the prefixes (``prefix_kv`` None), keys and values."""
        (input_adapter, *adapters), kept = places, []
        x = self.token_embedding(chunk.ids).to(tower_dtype(self))
        x = adapting.adapt_input(chunk.insert(x, vectors[0]), input_adapter)
        x = x + self.positional_embedding[chunk.positions].to(x.dtype)
        for i, (block, adapter) in enumerate(zip(self.transformer.resblocks, adapters)):
            before = x = chunk.insert(x, vectors[i]) if 0 < i < len(vectors) else x
            early, finish, shared = i < insert_at, i + 1 < len(adapters), prefix_kv and prefix_kv[i]
            run = partial(self._block, split, block, adapter, chunk.groups, early, finish, shared)
            x, *kv = blocks.maybe_recompute(i < self.recompute_blocks, run, x)
            if prefix_kv is None:
                kept.append(tuple(part.unflatten(0, (-1, chunk.groups[0].length)) for part in kv))
        return (before, x) if split else (x,), kept

    def _block(
        self, split: bool, block: Any, adapter: Any, groups: list[Group], early: bool, finish: bool, kv: Any, x: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs of a block for the rows x (X, d_l) of all groups, without ``finish`` those of its
        attention, and keys and values; a block that cannot be split returns its outputs alone."""
        masks = [group.early_mask if early else group.mask for group in groups]
        if not split:  # whole prompts are one group
            prompts = x.unflatten(0, (-1, groups[0].length))
            return (adapting.whole_block(self.transformer, block, prompts, masks[0], adapter).flatten(0, 1),)
        functions = adapting.adapt(self.functions, adapter)
        projected, parts = functions.project_in(block, x, len(x)), []
        sizes = [len(group.prompts) * group.length for group in groups]
        for group, mask, *qkv in zip(groups, masks, *(part.split(sizes) for part in projected)):
            q, k, v = (part.unflatten(0, (-1, group.length)) for part in qkv)  # (g, S, d_l)
            if group.prefix:  # gathered as embeddings are, whose backward pass is deterministic
                shared = (F.embedding(group.prompts, part[:, : group.prefix].flatten(1)) for part in kv)
                k, v = (torch.cat([a.unflatten(1, (group.prefix, -1)), b], 1) for a, b in zip(shared, (k, v)))
            parts.append(blocks.attend(q, k, v, block.attn.num_heads, mask).flatten(0, 1))
        attended = torch.cat(parts)
        return functions.finish(block, x, attended) if finish else attended, *projected[1:]

    def _finish(self, adapter: BlockAdapter | None, x: Tensor, attended: Tensor | None = None) -> Tensor:
        """Finish the last block at some positions x (..., d_l), and map its outputs to (..., D)."""
        if attended is not None:
            x = adapting.adapt(self.functions, adapter).finish(self.transformer.resblocks[-1], x, attended)
        return blocks.project_out(self.ln_final(x), self.text_projection)
