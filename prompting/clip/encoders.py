"""CLIP's towers with prompts passed in as data. The open_clip modules are used as they are; we only loop their blocks.

Shape letters: B images, K classes, M visual prompts, N text prompts, b prompt length, O patches, J = O + b visual
tokens, T text positions, D embedding width, d_v and d_l the towers' widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prompting.clip.shape import NEEDS_VIT, ClipShape, text_tower, tower_dtype, vision_tower
from prompting.clip.tokens import PromptTokens, clean_name, clip_tokenizer


class TextFeatures(NamedTuple):
    """What the text tower gives: ``prompt`` (K, N, D) at EOS; ``tokens`` (K, N, T, D) at every position, or None."""

    prompt: Tensor
    tokens: Tensor | None = None


class VisualFeatures(NamedTuple):
    """What the vision tower gives: ``prompt`` (B, M, D) at CLS; ``tokens`` (B, M, J, D) at the patches and, behind
    them, the prompts, or None; ``mask`` (B, M, J) bool of the valid tokens, None where all are."""

    prompt: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class _Frozen(nn.Module):
    """A module that never leaves evaluation mode: BatchNorm and dropout of a frozen tower must not wake up."""

    def train(self, mode: bool = True) -> _Frozen:  # noqa: ARG002 - the signature is torch's
        return super().train(False)


def _run_blocks(
    transformer: Any, x: Tensor, mask: Tensor | None, before: Callable[[int, Tensor], Tensor], n_deep: int
) -> Tensor:
    """Run a transformer's blocks on x (batch, length, d), calling ``before(i, x)`` ahead of block i + 1."""
    # open_clip releases before 2.26 have no such flag and run length-first.
    batch_first = getattr(transformer, "batch_first", False)
    for i, block in enumerate(transformer.resblocks):
        if 0 < i <= n_deep:
            x = before(i - 1, x)
        y = x if batch_first else x.transpose(0, 1)
        if getattr(transformer, "grad_checkpointing", False) and torch.is_grad_enabled():
            y = checkpoint(block, y, attn_mask=mask, use_reentrant=False)
        else:
            y = block(y, attn_mask=mask)
        x = y if batch_first else y.transpose(0, 1)
    return x


def _check(name: str, value: Tensor, allowed: Sequence[tuple[int, ...]]) -> None:
    """Raise unless ``value`` has one of the allowed shapes, in which -1 stands for any number above 0."""
    for shape in allowed:
        if value.dim() == len(shape) and all(s in (-1, v) and v > 0 for v, s in zip(value.shape, shape)):
            return
    listed = " or ".join(str(tuple("any" if s == -1 else s for s in shape)).replace("'", "") for shape in allowed)
    raise ValueError(f"{name} has shape {tuple(value.shape)}; allowed: {listed}")


def _check_depth(deep: Sequence[Tensor], layers: int) -> None:
    if len(deep) > layers - 1:
        raise ValueError(f"deep prompts for {len(deep)} blocks; a tower of {layers} blocks takes at most {layers - 1}")


def _common(name: str, sizes: Sequence[int]) -> int:
    """Return the number of prompts that all of ``sizes`` share; 1 broadcasts."""
    found = {size for size in sizes if size != 1}
    if len(found) > 1:
        raise ValueError(f"{name} prompts disagree in number: found {sorted(found)}; all must be equal, or 1")
    return found.pop() if found else 1


def _project(x: Tensor, projection: nn.Linear | Tensor | None) -> Tensor:
    """Map a tower's output (..., d) to the joint embedding (..., D)."""
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


class TextEncoder(_Frozen):
    """CLIP's text tower for prompts with learned vectors in them.

    Registers the parts of the tower it runs (shared with the CLIP it was made from, not copied), so that the parameters
    of a text and a vision encoder do not overlap.

    Args:
        clip: a loaded open_clip model.

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
        self.eval()

    def forward(
        self,
        tokens: PromptTokens,
        context: Tensor | None = None,
        deep: Sequence[Tensor] = (),
        *,
        return_tokens: bool = False,
    ) -> TextFeatures:
        """Encode N prompts of K classes.

        Only the T positions of the longest prompt are run: attention is causal, so what follows EOS changes nothing.

        Args:
            tokens: the prompts; their leading axis is N, or 1 if the fixed words are the same for all prompts.
            context: learned vectors (N, b, d_l), or class-specific (N, K, b, d_l); None keeps the words of the prompt.
            deep: at most layers - 1 tensors (N, b', d_l) or (N, K, b', d_l) with b' <= b; ``deep[i]`` replaces the
                first b' context positions before block i + 1 (block 0 reads ``context``).
            return_tokens: also return the outputs at every position.

        Returns:
            ``prompt`` (K, N, D), not normalised, and ``tokens`` (K, N, T, D) or None, in the tower's dtype.

        Raises:
            ValueError: for shapes that do not fit the tokens or the tower, and for too many deep prompts.

        Source: ALIGN (arXiv 2309.13847), section 3.1; deep prompts: MaPLe (arXiv 2210.03117), section 3.2.1.
        """
        classes, b = tokens.context.shape[1:]
        d_l = self.token_embedding.weight.shape[1]
        _check_depth(deep, len(self.transformer.resblocks))
        if context is not None:
            _check("context", context, [(-1, b, d_l), (-1, classes, b, d_l)])
        for i, vectors in enumerate(deep):
            length = min(vectors.shape[-2], b) if vectors.dim() > 1 else b
            _check(f"deep text prompt {i}", vectors, [(-1, length, d_l), (-1, classes, length, d_l)])
        given = [v for v in (context, *deep) if v is not None]
        n = _common("text", [tokens.ids.shape[0], *(v.shape[0] for v in given)])

        tokens = tokens.to(self.token_embedding.weight.device)
        x = self.token_embedding(tokens.ids).to(tower_dtype(self))  # (N|1, K, T, d_l)
        length = x.shape[2]
        x = x.expand(n, -1, -1, -1)
        if context is not None:
            x = self._insert(x, tokens.context, context)
        x = x + self.positional_embedding[:length].to(x.dtype)
        mask = self.attn_mask[:length, :length].to(x.device)

        def before(i: int, x: Tensor) -> Tensor:
            return self._insert(x.unflatten(0, (n, classes)), tokens.context, deep[i]).flatten(0, 1)

        x = _run_blocks(self.transformer, x.flatten(0, 1), mask, before, len(deep))  # (N * K, T, d_l)
        x = x.unflatten(0, (n, classes))  # (N, K, T, d_l)
        if return_tokens:
            x = _project(self.ln_final(x), self.text_projection)  # (N, K, T, D)
            return TextFeatures(self._at_eos(x, tokens).transpose(0, 1), x.transpose(0, 1))
        prompt = _project(self.ln_final(self._at_eos(x, tokens)), self.text_projection)  # (N, K, D)
        return TextFeatures(prompt.transpose(0, 1))

    @staticmethod
    def _insert(x: Tensor, where: Tensor, vectors: Tensor) -> Tensor:
        """Put vectors (N|1, [K,] b', d) at the first b' of the positions ``where`` (N|1, K, b) of x (N, K, T, d)."""
        if vectors.dim() == 3:
            vectors = vectors.unsqueeze(1)  # (N|1, 1, b', d)
        shape = (*x.shape[:2], vectors.shape[2], x.shape[3])
        index = where[..., : shape[2]].unsqueeze(-1).expand(shape)
        return x.scatter(2, index, vectors.to(x.dtype).expand(shape))

    @staticmethod
    def _at_eos(x: Tensor, tokens: PromptTokens) -> Tensor:
        """Pick (N, K, d) out of x (N, K, T, d) at each prompt's EOS."""
        index = tokens.eos[..., None, None].expand(*x.shape[:2], 1, x.shape[3])
        return x.gather(2, index).squeeze(2)


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


class VisionEncoder(_Frozen):
    """CLIP's vision tower for images with M sets of prompts behind their patches.

    Args:
        clip: a loaded open_clip model.

    Raises:
        ValueError: if one of its towers is of a kind that cannot be prompted.
    """

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.visual = vision_tower(clip)
        self.shape = ClipShape.of(clip)
        self.eval()

    def forward(
        self,
        images: Tensor,
        prompts: Tensor | None = None,
        deep: Sequence[Tensor] = (),
        *,
        return_tokens: bool = False,
    ) -> VisualFeatures:
        """Encode B images, each with M sets of prompts.

        Prompts follow the patches, behind the addition of positions and before the tower's first norm. A ResNet takes
        no prompts; its tokens are the attention pool's outputs with each spatial position as the query.

        Args:
            images: (B, 3, H, W), normalised, of the size that the tower reads.
            prompts: learned vectors (M, b, d_v); None is M = 1 without prompts.
            deep: at most layers - 1 tensors (M, b', d_v) with b' <= b; ``deep[i]`` replaces the last b' positions
                before block i + 1 (block 0 reads ``prompts``).
            return_tokens: also return the outputs at patches and prompts.

        Returns:
            ``prompt`` (B, M, D), not normalised, ``tokens`` (B, M, J, D) or None, and no mask, as all J are valid.

        Raises:
            ValueError: for an image size that is not the tower's, prompts on a ResNet, shapes that do not fit, and too
                many deep prompts.

        Source: ALIGN (arXiv 2309.13847), section 3.1; prompts in a ViT: VPT (arXiv 2203.12119); spatial features of a
        ResNet: PLOT (arXiv 2210.01253), section 3.2.
        """
        _check("images", images, [(-1, 3, *self.shape.image_size)])
        if isinstance(self.visual, ModifiedResNet):
            if prompts is not None or len(deep):
                raise ValueError(NEEDS_VIT)
            return self._resnet(images, return_tokens)
        if prompts is None and len(deep):
            raise ValueError("deep visual prompts need visual prompts at the input; found none")
        _check_depth(deep, self.shape.vision_layers)
        return self._vit(images, prompts, deep, return_tokens)

    def _vit(
        self, images: Tensor, prompts: Tensor | None, deep: Sequence[Tensor], return_tokens: bool
    ) -> VisualFeatures:
        visual, m = self.visual, 1
        x = visual.conv1(images.to(tower_dtype(visual))).flatten(2).transpose(1, 2)  # (B, O, d_v)
        cls = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        # The first norm acts on each position alone, so patches go through it once and not M times.
        x = visual.ln_pre(torch.cat([cls, x], 1) + visual.positional_embedding.to(x.dtype))  # (B, 1 + O, d_v)
        if prompts is not None:
            _check("visual prompts", prompts, [(-1, -1, self.shape.vision_width)])
            for i, vectors in enumerate(deep):
                length = min(vectors.shape[-2], prompts.shape[1]) if vectors.dim() > 1 else prompts.shape[1]
                _check(f"deep visual prompt {i}", vectors, [(-1, length, self.shape.vision_width)])
            m = _common("visual", [v.shape[0] for v in (prompts, *deep)])
            x = x.repeat_interleave(m, 0)  # (B * M, 1 + O, d_v)
            x = torch.cat([x, self._tile(visual.ln_pre(prompts.to(x.dtype)), m, images.shape[0])], 1)

        def before(i: int, x: Tensor) -> Tensor:
            return torch.cat([x[:, : -deep[i].shape[1]], self._tile(deep[i].to(x.dtype), m, images.shape[0])], 1)

        x = _run_blocks(visual.transformer, x, None, before, len(deep))
        x = x if return_tokens else x[:, :1]
        x = _project(visual.ln_post(x), visual.proj).unflatten(0, (-1, m))  # (B, M, 1 + J | 1, D)
        return VisualFeatures(x[:, :, 0], x[:, :, 1:] if return_tokens else None)

    @staticmethod
    def _tile(vectors: Tensor, m: int, images: int) -> Tensor:
        """Repeat vectors (M|1, b, d) for each image: (B * M, b, d), M running fastest."""
        return vectors.expand(m, -1, -1).repeat(images, 1, 1)

    def _resnet(self, images: Tensor, return_tokens: bool) -> VisualFeatures:
        visual = self.visual
        x = visual.stem(images.to(tower_dtype(visual)))
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            x = stage(x)
        x = self._pool(visual.attnpool, x, all_positions=return_tokens)  # (B, 1 + O | 1, D)
        return VisualFeatures(x[:, 0].unsqueeze(1), x[:, 1:].unsqueeze(1) if return_tokens else None)

    @staticmethod
    def _pool(pool: AttentionPool2d, x: Tensor, all_positions: bool) -> Tensor:
        """Attend from the mean of a feature map x (B, C, h, w), and from each position if asked, to all positions."""
        x = x.flatten(2).permute(2, 0, 1)  # (O, B, C)
        x = torch.cat([x.mean(0, keepdim=True), x]) + pool.positional_embedding[:, None].to(x.dtype)
        out, _ = F.multi_head_attention_forward(
            x if all_positions else x[:1],
            x,
            x,
            embed_dim_to_check=x.shape[-1],
            num_heads=pool.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=pool.c_proj.weight,
            out_proj_bias=pool.c_proj.bias,
            training=False,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
        )
        return out.transpose(0, 1)  # (B, 1 + O | 1, D)
