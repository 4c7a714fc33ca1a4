"""Widths, depths, sizes and dtypes, read from a loaded CLIP model."""

from dataclasses import dataclass
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import nn

NEEDS_VIT = "visual prompts need a ViT backbone; this one is a ResNet"


@dataclass(frozen=True)
class ClipShape:
    """The sizes of a CLIP model.

    Attributes:
        kind: kind of the vision tower, ``"vit"`` or ``"resnet"``.
        vision_width: d_v, width of the vision tower (ResNet: channels of the last feature map).
        text_width: d_l, width of the text tower.
        embed_dim: D, width of the joint embedding.
        image_size: (H, W) of the images.
        grid: (rows, columns) of patches or spatial positions; their product is O.
        context_length: largest number of tokens in a prompt, SOS and EOS included.
        vision_layers: number of blocks of the vision tower (ResNet: of all four stages).
        text_layers: number of blocks of the text tower.
    """

    kind: str
    vision_width: int
    text_width: int
    embed_dim: int
    image_size: tuple[int, int]
    grid: tuple[int, int]
    context_length: int
    vision_layers: int
    text_layers: int

    @property
    def patches(self) -> int:
        """O, the number of patches (ResNet: spatial positions)."""
        return self.grid[0] * self.grid[1]

    @classmethod
    def from_model(cls, model: nn.Module) -> "ClipShape":
        """Return the sizes of ``model``, an open_clip ``CLIP`` or ``CustomTextCLIP``.

        Raises:
            ValueError: if one of the towers is of a kind that cannot be prompted.
        """
        visual, text = vision_tower(model), text_tower(model)
        size = _pair(visual.image_size)
        if isinstance(visual, ModifiedResNet):
            stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
            positions, d_v = visual.attnpool.positional_embedding.shape
            # One position embedding of the attention pool belongs to the mean; CLIP's ResNets have a square grid.
            side = round((positions - 1) ** 0.5)
            kind, grid, layers = "resnet", (side, side), sum(len(stage) for stage in stages)
            embed_dim = visual.attnpool.c_proj.out_features
        else:
            kind, d_v, layers = "vit", visual.class_embedding.shape[0], len(visual.transformer.resblocks)
            embed_dim = visual.proj.shape[1] if visual.proj is not None else d_v
            patch = _pair(visual.conv1.kernel_size)
            grid = (size[0] // patch[0], size[1] // patch[1])
        return cls(
            kind=kind,
            vision_width=d_v,
            text_width=text.token_embedding.weight.shape[1],
            embed_dim=embed_dim,
            image_size=size,
            grid=grid,
            context_length=text.positional_embedding.shape[0],
            vision_layers=layers,
            text_layers=len(text.transformer.resblocks),
        )

    def check_depth(self, *, text: int = 0, vision: int = 0) -> None:
        """Raise ``ValueError`` unless each depth is from 0 to the tower's number of blocks; 0 for a ResNet."""
        if vision and self.kind != "vit":
            raise ValueError(NEEDS_VIT)
        for tower, depth, layers in (("text", text, self.text_layers), ("vision", vision, self.vision_layers)):
            if not 0 <= depth <= layers:
                raise ValueError(
                    f"{tower} prompt depth is {depth}; the {tower} tower has {layers} blocks: 0 to {layers}"
                )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def text_tower(model: nn.Module) -> Any:
    """Return the module that holds ``token_embedding``, ``transformer`` and the other parts of the text tower: an
    open_clip ``CLIP`` itself, or the ``.text`` of a ``CustomTextCLIP``.

    Raises:
        ValueError: if the tower is not a causal transformer that is pooled at EOS.
    """
    inner: Any = getattr(model, "text", None)
    tower: Any = inner if isinstance(inner, nn.Module) else model
    if not hasattr(tower, "token_embedding") or not hasattr(getattr(tower, "transformer", None), "resblocks"):
        raise ValueError(f"prompts need CLIP's text transformer; {type(tower).__name__} is another text tower")
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax"))
    if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None:
        raise ValueError("prompts need a causal text tower without a class token; this model's is not")
    if pool not in ("argmax", "eos"):
        raise ValueError(f"prompts need a text tower that is pooled at EOS; this model's is pooled by {pool!r}")
    return tower


def vision_tower(model: nn.Module) -> Any:
    """Return the vision tower of an open_clip model: a ViT that is pooled at CLS, or CLIP's ResNet.

    Raises:
        ValueError: if the tower is of another kind (timm's, attentional or average pooling).
    """
    visual: Any = model.visual
    if isinstance(visual, ModifiedResNet):
        return visual
    if not isinstance(visual, VisionTransformer):
        raise ValueError(f"prompts need CLIP's ViT or ResNet; {type(visual).__name__} is another vision tower")
    pool = "attention" if getattr(visual, "attn_pool", None) is not None else getattr(visual, "pool_type", "tok")
    if pool != "tok":
        raise ValueError(f"prompts need a ViT that is pooled at CLS; this model's is pooled by {pool!r}")
    return visual


def input_size(model: nn.Module) -> tuple[int, int]:
    """Return the size (H, W) in pixels of an open_clip model's images, for towers of any kind."""
    visual: Any = model.visual
    return _pair(visual.image_size)


def tower_dtype(tower: Any) -> torch.dtype:
    """Return the dtype of a tower's matrices and activations (norms may be stored in float32)."""
    if isinstance(tower, ModifiedResNet):
        return tower.conv1.weight.dtype
    return tower.transformer.resblocks[0].mlp.c_fc.weight.dtype


def mlp_ratio(tower: Any) -> float:
    """Return the width of the MLP's hidden layer divided by that of the tower; 4 for a ResNet, which has no MLPs."""
    if isinstance(tower, ModifiedResNet):
        return 4.0
    linear = tower.transformer.resblocks[0].mlp.c_fc
    return linear.out_features / linear.in_features
