"""CLIP's vision tower with prompts passed in as data.

Shape letters: B images, M visual prompts, b prompt length, O patches, J = O + b visual tokens, D embedding width, d_v
the tower's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor, nn

from prompting.clip.blocks import (
    Frozen,
    Steps,
    ask,
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
from prompting.clip.mlp import Scratch
from prompting.clip.shape import NEEDS_VIT, ClipShape, hidden_widths, tower_dtype, vision_tower

CACHED = 2**24  # bytes of a hidden layer that stay in a CPU's last cache with what is beside them


class VisualFeatures(NamedTuple):
    """What the vision tower gives: ``prompt`` (B, M, D) at CLS; ``tokens`` (B, M, J, D) at the patches and, behind
    them, the prompts, or None; ``mask`` (B, M, J) bool of the valid tokens, None where all are."""

    prompt: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class VisionEncoder(Frozen):
    """CLIP's vision tower for images with M sets of prompts behind their patches.

    What the M copies of an image have in common (the patches before the first attention) is computed once, and outputs
    that nobody reads are not computed: those of prompts that the next block replaces, and in the last block all but CLS
    where no tokens are asked for.

    Args:
        clip: a loaded open_clip model.

    Attributes:
        lean: the number of blocks, from the first, that keep nothing of their MLP for the backward pass, where its
            hidden layer is computed again: the same gradient, less memory, more work.
        between: is called with each part of the images, in both passes, where prompts are learned.
        plain: run whole copies of the images through the blocks as they are; what all else is compared with.
        steps: the parts of a block, as they are or compiled.

    Raises:
        ValueError: if one of its towers is of a kind that cannot be prompted.
    """

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.visual = vision_tower(clip)
        self.shape = ClipShape.of(clip)
        self.lean = 0
        self.between: Callable[[], None] = nothing
        self.plain = False
        self.steps = Steps()
        self._scratch = Scratch()
        self.eval()

    def forward(
        self,
        images: Tensor,
        prompts: Tensor | None = None,
        deep: Sequence[Tensor] = (),
        *,
        return_tokens: bool = False,
        constant_tokens: bool = False,
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
            constant_tokens: those carry no gradient, and nothing is kept or computed for one.

        Returns:
            ``prompt`` (B, M, D), not normalised, ``tokens`` (B, M, J, D) or None, and no mask, as all J are valid.

        Raises:
            ValueError: for an image size that is not the tower's, prompts on a ResNet, shapes that do not fit, and too
                many deep prompts.

        Source: ALIGN (arXiv 2309.13847), section 3.1; prompts in a ViT: VPT (arXiv 2203.12119); spatial features of a
        ResNet: PLOT (arXiv 2210.01253), section 3.2.
        """
        check_shape("images", images, [(-1, 3, *self.shape.image_size)])
        if isinstance(self.visual, ModifiedResNet):
            if prompts is not None or len(deep):
                raise ValueError(NEEDS_VIT)
            return self._resnet(images, return_tokens)
        if prompts is None and len(deep):
            raise ValueError("deep visual prompts need visual prompts at the input; found none")
        check_deep(len(deep), self.shape.vision_layers)
        self._scratch.clear()
        found = self._vit(images, prompts, deep, return_tokens, return_tokens and constant_tokens)
        if found.tokens is None or not constant_tokens:
            return found
        return found._replace(tokens=found.tokens.detach())

    def _vit(
        self,
        images: Tensor,
        prompts: Tensor | None,
        deep: Sequence[Tensor],
        return_tokens: bool,
        apart: bool,
    ) -> VisualFeatures:
        visual, m = self.visual, 1
        x = visual.conv1(images.to(tower_dtype(visual))).flatten(2).transpose(1, 2)  # (B, O, d_v)
        cls = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        # The first norm acts on each position alone, so patches go through it once and not M times.
        x = visual.ln_pre(torch.cat([cls, x], 1) + visual.positional_embedding.to(x.dtype))  # (B, 1 + O, d_v)
        v = None
        if prompts is not None:
            check_shape("visual prompts", prompts, [(-1, -1, self.shape.vision_width)])
            for i, vectors in enumerate(deep):
                length = min(vectors.shape[-2], prompts.shape[1]) if vectors.dim() > 1 else prompts.shape[1]
                check_shape(f"deep visual prompt {i}", vectors, [(-1, length, self.shape.vision_width)])
            m = common_number("visual", [v.shape[0] for v in (prompts, *deep)])
            v = visual.ln_pre(prompts.to(x.dtype))  # (M|1, b, d_v)
        deep = [vectors.to(x.dtype) for vectors in deep]
        if self.plain or not can_split(visual.transformer):
            x = self._project(self._whole(x, v, deep, m, return_tokens), m)  # (B, M, 1 + J | 1, D)
            return VisualFeatures(x[:, :, 0], x[:, :, 1:] if return_tokens else None)
        parts = []
        for part in x.split(self.images_at_once(m) or len(x)):
            parts.append(self._part(part, v, deep, m, return_tokens, apart))
            on_both_passes(parts[-1].prompt, self.between)
        if len(parts) == 1:
            return parts[0]
        prompt, tokens = (torch.cat(part) if part[0] is not None else None for part in zip(*(p[:2] for p in parts)))
        assert prompt is not None  # for the type checker: every part has one
        return VisualFeatures(prompt, tokens)

    def images_at_once(self, m: int) -> int | None:
        """Return how many images are run together, each ``m`` times: on a CPU those whose hidden layer its cache holds,
        which saves passes over memory; elsewhere all, None."""
        visual, weight = self.visual, self.visual.conv1.weight
        if weight.device.type != "cpu" or isinstance(visual, ModifiedResNet) or not can_split(visual.transformer):
            return None
        hidden = m * (1 + self.shape.patches) * self.shape.vision_width * hidden_widths(visual) * weight.element_size()
        return max(1, int(CACHED // hidden))

    def _part(
        self, x: Tensor, v: Tensor | None, deep: Sequence[Tensor], m: int, return_tokens: bool, apart: bool
    ) -> VisualFeatures:
        """Run some of the images, patches (B, 1 + O, d_v), with the prompts (M|1, b, d_v)."""
        x, tokens = self._split(x, v, deep, m, return_tokens, apart)
        x = self._project(x, m)  # (B, M, 1 + J | 1, D)
        if tokens is None:
            return VisualFeatures(x[:, :, 0], x[:, :, 1:] if return_tokens else None)
        with torch.no_grad():
            tokens = self._project(tokens, m)
        return VisualFeatures(x[:, :, 0], tokens)

    def _project(self, x: Tensor, m: int) -> Tensor:
        """Map outputs (B * M, length, d_v) to (B, M, length, D)."""
        return project_out(self.visual.ln_post(x), self.visual.proj).unflatten(0, (-1, m))

    def _split(
        self, x: Tensor, v: Tensor | None, deep: Sequence[Tensor], m: int, return_tokens: bool, apart: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run the blocks in parts on patches (B, 1 + O, d_v) and prompts (M|1, b, d_v).

        Returns:
            (B * M, 1 + J | 1, d_v) and None; or ``apart`` CLS (B * M, 1, d_v) and without a gradient (B * M, J, d_v).
        """
        blocks, images, steps = self.visual.transformer.resblocks, x.shape[0], self.steps
        apart = apart and torch.is_grad_enabled() and len(blocks) > 1
        for i, block in enumerate(blocks):
            heads, last = block.attn.num_heads, i + 1 == len(blocks)
            if 0 < i <= len(deep):
                x = torch.cat([x, _tile(deep[i - 1], m, images)], 1)  # in place of those that were not computed
            if last and apart:
                return self._apart(block, x)
            length = x.shape[1] + (v.shape[1] if v is not None and i == 0 else 0)
            read = self._read(i, length, deep, last and not return_tokens)
            if i == 0:
                # Nothing has mixed yet: the patches' queries, keys and values are those of all M copies.
                parts = steps.project_in(block, x)
                x = _spread(x, v, m)
                if v is not None:
                    parts = tuple(_spread(part, own, m) for part, own in zip(parts, steps.project_in(block, v)))
                q, k, value = parts
                x = steps.finish(block, x[:, :read], attend(q[:, :read], k, value, heads), self.lean > 0, self._scratch)
            else:
                x = recomputed(self.visual.transformer, partial(self._block, block, read, i < self.lean), x)
        return x, None

    def _apart(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a block's output at CLS and, without a gradient, those at all other positions."""
        heads, rest = block.attn.num_heads, x[:, 1:]
        q, k, v = self.steps.project_in(block, x, 1)
        cls = self.steps.finish(block, x[:, :1], attend(q, k, v, heads))
        with torch.no_grad():
            return cls, self.steps.finish(block, rest, attend(ask(block, rest), k, v, heads))

    def _block(self, block: Any, read: int, lean: bool, x: Tensor) -> Tensor:
        """Return a block's leading ``read`` outputs."""
        q, k, v = self.steps.project_in(block, x, read if read == 1 else None)
        return self.steps.finish(
            block, x[:, :read], attend(q[:, :read], k, v, block.attn.num_heads), lean, self._scratch
        )

    @staticmethod
    def _read(block: int, length: int, deep: Sequence[Tensor], cls_only: bool) -> int:
        """Return how many of a block's leading outputs the next block, or the caller, reads."""
        if cls_only:
            return 1
        return length - deep[block].shape[1] if block < len(deep) else length

    def _whole(self, x: Tensor, v: Tensor | None, deep: Sequence[Tensor], m: int, return_tokens: bool) -> Tensor:
        """Run the blocks as they are on M copies of the patches with their prompts."""
        images = x.shape[0]

        def before(i: int, x: Tensor) -> Tensor:
            return torch.cat([x[:, : -deep[i].shape[1]], _tile(deep[i], m, images)], 1)

        x = run_whole(self.visual.transformer, _spread(x, v, m), None, before, len(deep))
        return x if return_tokens else x[:, :1]

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


def _tile(vectors: Tensor, m: int, images: int) -> Tensor:
    """Repeat vectors (M|1, b, d) for each image: (B * M, b, d), M running fastest."""
    return vectors.expand(m, -1, -1).repeat(images, 1, 1)


def _spread(x: Tensor, v: Tensor | None, m: int) -> Tensor:
    """Put prompts v (M|1, b, d) behind M copies of x (B, 1 + O, d): (B * M, 1 + O + b, d), M running fastest."""
    copies = x.repeat_interleave(m, 0) if m > 1 else x
    return copies if v is None else torch.cat([copies, _tile(v, m, x.shape[0])], 1)
