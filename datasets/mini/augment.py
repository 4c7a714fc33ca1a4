"""Batches of pre-training pictures, composed on tensors: colours, backgrounds, place, size, turn and noise."""

import math

import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Generator, Tensor

from .captions import COLOURS
from .likeness import LUMA

CONTRAST = 0.22  # least difference of brightness between a picture and its background
# How far a free picture moves: least and largest size, degrees either way, shift as a share of half the side.
SIZES, TURN, SHIFT = (0.6, 1.05), 15.0, 0.2


def brightness(colour: Tensor) -> Tensor:
    """Return the brightness (...) of colours (..., 3) in [0, 1]."""
    return colour @ colour.new_tensor(LUMA)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def ink_colours(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return colours (B, 3) in [0, 1] around those that have a name, and (B,) their number plus 1."""
    device = generator.device
    base = torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=device) / 255
    which = torch.randint(len(base), (count,), generator=generator, device=device)
    return (base[which] + 0.09 * torch.randn(count, 3, generator=generator, device=device)).clamp(0, 1), which + 1


def backgrounds(avoid: Tensor, generator: Generator, tries: int = 6) -> Tensor:
    """Return colours (B, 3) whose brightness differs from ``avoid`` (B,) by ``CONTRAST``."""
    count = len(avoid)
    options = _uniform((count, tries, 3), 0, 1, generator)
    white = _uniform((count, 1), 0, 1, generator) < 0.3
    options[:, 0] = torch.where(white, 1 - 0.1 * options[:, 0], options[:, 0])
    gap = (brightness(options) - avoid[:, None]).abs()
    good = gap > CONTRAST
    first = torch.where(good.any(1), good.float().argmax(1), gap.argmax(1))
    return options[torch.arange(count, device=first.device), first]


def compose(alpha: Tensor, own: Tensor, coloured: Tensor, free: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Put pictures on backgrounds.

    ``alpha`` are masks (B, 1, H, W) and ``own`` colours (B, 3, H, W) in [0, 1], which are read if a picture is
    ``coloured`` (B,). Pictures that are not ``free`` (B,) do not move and are black, or in their colours, on white. All
    tensors are on the device of ``generator``.

    Returns:
        Pictures (B, 3, H, W), normalised as CLIP's, and (B,) the number of the ink's colour plus 1, 0 for none.
    """
    count, _, height, width = alpha.shape
    ink, number = ink_colours(count, generator)
    own_ink = (own * alpha).sum((2, 3)) / alpha.sum((2, 3)).clamp(min=1)
    paper = backgrounds(brightness(torch.where(coloured[:, None], own_ink, ink)), generator)
    ink = ink.masked_fill(~free[:, None], 0)
    paper = paper.masked_fill(~free[:, None], 1)
    colour = torch.where(coloured[:, None, None, None], own, ink[:, :, None, None])

    stay = ~free
    size = _uniform((count,), *SIZES, generator).masked_fill(stay, 1)
    turn = torch.deg2rad(_uniform((count,), -TURN, TURN, generator)).masked_fill(stay, 0)
    shift = _uniform((count, 2), -SHIFT, SHIFT, generator).masked_fill(stay[:, None], 0)
    cos, sin = turn.cos() / size, turn.sin() / size
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(count, 2, 3)
    moved = torch.cat([colour * alpha, alpha], 1)
    grid = F.affine_grid(theta, [count, 4, height, width], align_corners=False)
    moved = F.grid_sample(moved, grid, mode="bilinear", align_corners=False)

    # a slope of brightness across the background, and grain
    angle = _uniform((count, 1, 1), 0, 2 * math.pi, generator)
    slope = _uniform((count, 1, 1), 0, 0.25, generator).masked_fill(stay[:, None, None], 0)
    line = torch.linspace(-1, 1, width, device=alpha.device)
    field = slope * (angle.cos() * line[None, None, :] + angle.sin() * line[None, :, None])
    page = (paper[:, :, None, None] + field[:, None]).clamp(0, 1)
    image = moved[:, :3] + page * (1 - moved[:, 3:])
    grain = _uniform((count, 1, 1, 1), 0, 0.05, generator).masked_fill(stay[:, None, None, None], 0)
    image = image + grain * torch.randn(image.shape, generator=generator, device=image.device)
    return normalise(image.clamp(0, 1)), number.masked_fill(~free | coloured, 0)


def normalise(image: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) in [0, 1] as CLIP takes them."""
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (image - mean) / std
