"""CLIP's vision tower with prompts passed in as data.

Shape letters: B images, M visual prompts, b prompt length, O patches, J = O + b visual tokens, D embedding width, d_v
the tower's width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from prompting.clip import adapters as adapting
from prompting.clip import blocks
from prompting.clip.adapters import BlockAdapter
from prompting.clip.shape import NEEDS_VIT, ClipShape, tower_dtype, vision_tower
from prompting.ot.checks import is_exporting

# Largest number of positions that run together in evaluation on a CPU. The C library maps larger tensors into memory
# at each allocation, which costs about a tenth of the time at batches of 32.
POSITIONS_AT_ONCE = 2048


class VisualFeatures(NamedTuple):
    """Outputs of the vision tower: ``prompt`` (B, M, D) at CLS; ``tokens`` (B, M, J, D) at the patches, then at the
    prompts, or None."""

    prompt: Tensor
    tokens: Tensor | None = None


class VisionEncoder(blocks.Frozen):
    """CLIP's vision tower for images with M sets of prompts appended to their patches.

    Patches are embedded, and projected for the first attention, once per image and not M times. Unused outputs are not
    computed: those at prompts that the next block replaces and, in the last block without ``return_tokens``, all but
    CLS.

    Args:
        clip: a loaded open_clip model.

    Attributes:
        recompute_blocks: number of blocks, from the first, whose activations are recomputed in the backward pass.
        functions: the parts of a block, eager or compiled.

    Raises:
        ValueError: if a tower is of a kind that cannot be prompted.
    """

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.visual = vision_tower(clip)
        self.shape = ClipShape.from_model(clip)
        self.recompute_blocks = 0
        self.functions = blocks.BlockFunctions()
        self.eval()

    def forward(
        self,
        images: Tensor,
        prompts: Tensor | None = None,
        deep: Sequence[Tensor | None] = (),
        *,
        adapters: Sequence[BlockAdapter | None] = (),
        return_tokens: bool = False,
        detach_tokens: bool = False,
        token_projection: Tensor | None = None,
    ) -> VisualFeatures:
        """Encode B images, each with M sets of prompts.

        Prompts are appended to the patches after position embeddings are added and before the tower's first norm. A
        ResNet takes no prompts; its tokens are the attention pool's outputs with each spatial position as the query.

        Args:
            images: (B, 3, H, W), normalised, of the tower's input size.
            prompts: learned vectors (M, b, d_v); None is M = 1 without prompts.
            deep: at most layers - 1 tensors (M, b', d_v) with b' <= b, or None; ``deep[i]`` replaces the last b'
                positions before block i + 1 (block 0 reads ``prompts``). Without ``prompts``, the first tensor is
                appended.
            adapters: ``adapters[0].output``, a function of the input after the first norm, is added to it;
                ``adapters[i]`` acts in block i - 1. None, or no entry, means no adapter.
            return_tokens: also return the outputs at patches and prompts.
            detach_tokens: return ``tokens`` without a gradient, and skip their backward pass in the last block.
            token_projection: (d_v, D), maps the normalised outputs at ``tokens`` in place of the tower's projection.

        Returns:
            ``prompt`` (B, M, D), not normalised; ``tokens`` (B, M, J, D) or None.

        Raises:
            ValueError: for an image size other than the tower's, prompts on a ResNet, shapes that do not fit, and too
                many deep prompts.

        Source: ALIGN (arXiv 2309.13847), section 3.1; prompts in a ViT: VPT (arXiv 2203.12119); spatial features of a
        ResNet: PLOT (arXiv 2210.01253), section 3.2.
        """
        blocks.check_shape("images", images, [(-1, 3, *self.shape.image_size)])
        if isinstance(self.visual, ModifiedResNet):
            if prompts is not None or len(deep) or len(adapters):
                raise ValueError(NEEDS_VIT)
            prompt, tokens = self._run_resnet(images, return_tokens)
            tokens = tokens.detach() if tokens is not None and detach_tokens else tokens
            return VisualFeatures(prompt, tokens)
        given, layers = [vectors for vectors in (prompts, *deep) if vectors is not None], self.shape.vision_layers
        length = given[0].shape[-2] if given and given[0].dim() > 1 else -1
        blocks.check_prompts("visual", prompts, deep, layers, (1, length, self.shape.vision_width))
        m = blocks.common_number("visual", [len(vectors) for vectors in given])
        adapters = adapting.pad_adapters(adapters, layers)
        together = torch.is_grad_enabled() or is_exporting() or images.device.type != "cpu"
        at_once = max(1, POSITIONS_AT_ONCE // (m * (1 + self.shape.patches)))
        run = partial(self._run_vit, m, prompts, deep, adapters, return_tokens, detach_tokens, token_projection)
        parts = [run(part) for part in ([images] if together else images.split(at_once))]
        return VisualFeatures(*(torch.cat(part) for part in zip(*parts) if part[0] is not None))

    def _run_vit(
        self,
        m: int,
        prompts: Tensor | None,
        deep: Sequence[Tensor | None],
        adapters: Sequence[BlockAdapter | None],
        return_tokens: bool,
        detach_tokens: bool,
        token_projection: Tensor | None,
        images: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs (B, M, D) at CLS and, with ``return_tokens``, (B, M, J, D) at patches and prompts."""
        visual = self.visual
        x = visual.conv1(images.to(tower_dtype(visual))).flatten(2).transpose(1, 2)  # (B, O, d_v)
        cls = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        # The first norm acts on each position alone, so patches pass through it once per image.
        x = visual.ln_pre(torch.cat([cls, x], 1) + visual.positional_embedding.to(x.dtype))  # (B, 1 + O, d_v)
        input_adapter, *block_adapters = adapters
        x, patches = adapting.adapt_input(x, input_adapter), x.shape[1]
        if prompts is not None:
            prompts = adapting.adapt_input(visual.ln_pre(prompts.to(x.dtype)), input_adapter)  # (M|1, b, d_v)

        resblocks, split = visual.transformer.resblocks, blocks.can_split(visual.transformer)
        length, tokens = patches + (0 if prompts is None else prompts.shape[1]), x
        deep = [*deep, *[None] * len(resblocks)]
        for i, (block, adapter, after) in enumerate(zip(resblocks, block_adapters, deep)):
            before = deep[i - 1] if i > 0 else None
            if before is not None:  # the previous block has left out the positions of these prompts
                x = torch.cat([x, _repeat(before.to(x.dtype), m, images.shape[0])], 1)
                length = x.shape[1]
            run = partial(self._first_block, prompts, m) if i == 0 else self._block
            run = partial(run, block, split, adapter)
            # Number of leading outputs that the next block, or the caller, reads.
            read = length if after is None or length == patches else length - after.shape[1]
            if i + 1 == len(resblocks) and (detach_tokens or not return_tokens):
                if return_tokens:
                    with torch.no_grad():
                        tokens = run(length, x)[:, 1:]
                read = 1
            x = blocks.maybe_recompute(i < self.recompute_blocks, run, read, x)
        out = self._project(x if token_projection is None else x[:, :1], m, visual.proj)  # all outputs, or CLS only
        if return_tokens and (detach_tokens or token_projection is not None):
            projection = visual.proj if token_projection is None else token_projection
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_tokens):
                tokens = self._project(tokens if detach_tokens else x[:, 1:], m, projection)
        else:
            tokens = out[:, :, 1:]
        return out[:, :, 0], tokens if return_tokens else None

    def _first_block(
        self, prompts: Tensor | None, m: int, block: Any, split: bool, adapter: Any, read: int, x: Tensor
    ) -> Tensor:
        """Run the first block on patches x (B, 1 + O, d_v) and prompts (M|1, b, d_v); return (B * M, read, d_v)."""
        if not split:
            return self._block(block, split, adapter, read, _append(x, prompts, m))
        functions = adapting.adapt(self.functions, adapter)
        # Before the first attention the M copies of an image are equal.
        q, k, v = functions.project_in(block, x, x.shape[1])
        if prompts is not None:
            projected = functions.project_in(block, prompts, prompts.shape[1])
            q, k, v = (_append(part, prompt, m) for part, prompt in zip((q, k, v), projected))
        return functions.finish(
            block, _append(x, prompts, m)[:, :read], blocks.attend(q[:, :read], k, v, block.attn.num_heads)
        )

    def _block(self, block: Any, split: bool, adapter: Any, read: int, x: Tensor) -> Tensor:
        """Return the leading ``read`` outputs of a block."""
        if not split:
            return adapting.whole_block(self.visual.transformer, block, x, adapter=adapter)[:, :read]
        functions = adapting.adapt(self.functions, adapter)
        q, k, v = functions.project_in(block, x, read)
        return functions.finish(block, x[:, :read], blocks.attend(q, k, v, block.attn.num_heads))

    def _project(self, x: Tensor, m: int, projection: Any) -> Tensor:
        """Map outputs (B * M, length, d_v) to (B, M, length, D)."""
        return blocks.project_out(self.visual.ln_post(x), projection).unflatten(0, (-1, m))

    def _run_resnet(self, images: Tensor, return_tokens: bool) -> tuple[Tensor, Tensor | None]:
        """Return the attention pool's outputs (B, 1, D) and, with ``return_tokens``, (B, 1, O, D) at each position."""
        visual, pool = self.visual, self.visual.attnpool
        x = visual.stem(images.to(tower_dtype(visual)))
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            x = stage(x)
        x = x.flatten(2).transpose(1, 2)  # (B, O, C)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + pool.positional_embedding.to(x.dtype)
        queries = pool.q_proj(x if return_tokens else x[:, :1])
        x = pool.c_proj(blocks.attend(queries, pool.k_proj(x), pool.v_proj(x), pool.num_heads))  # (B, 1 + O | 1, D)
        return x[:, :1], x[:, 1:].unsqueeze(1) if return_tokens else None


def _repeat(vectors: Tensor, m: int, images: int) -> Tensor:
    """Repeat vectors (M|1, b, d) for each image: (B * M, b, d), the M of an image in a row."""
    return vectors.expand(m, -1, -1).repeat(images, 1, 1)


def _append(x: Tensor, v: Tensor | None, m: int) -> Tensor:
    """Append prompts v (M|1, b, d) to M copies of x (B, 1 + O, d): (B * M, 1 + O + b, d), ordered as in ``_repeat``."""
    copies = x.repeat_interleave(m, 0) if m > 1 else x
    return copies if v is None else torch.cat([copies, _repeat(v, m, x.shape[0])], 1)
