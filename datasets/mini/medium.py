"""How a data set's pictures look: paper, ink, texture, line and light. Pre-training sees plain colours only.

A picture is a pure function of a tile, a medium and a random generator.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .likeness import ink as darkness

Range = tuple[tuple[int, int, int], tuple[int, int, int]]
TEXTURES = ("plain", "ruled", "grid", "cloth", "wood", "kraft", "bricks", "rays", "waves", "dots")


@dataclass(frozen=True)
class Medium:
    """A look. Colours are drawn between two corners, channel by channel together.

    Args:
        paper: colour of the background.
        ink: colour of masks, and of what ``keep`` takes from coloured pictures.
        keep: share of a coloured picture's own colours that is kept; the rest becomes ink by its darkness.
        texture: pattern of the background, one of ``TEXTURES``.
        strength: how far the pattern changes the paper's brightness, in [0, 1].
        through: how far the pattern shows through the ink, in [0, 1].
        line: pixels that masks are thickened by; negative thins them.
        wobble: pixels that edges are bent by.
        rough: share of the ink that is rubbed off in flecks.
        shadow: darkness of a shadow behind the picture, in [0, 1].
        light: how much darker the page is at its far side, in [0, 1].
        blur: standard deviation in pixels.
        grain: standard deviation of noise, in [0, 1].
        sizes: least and largest size; 1 fills the page.
        turn: degrees either way.
        shift: share of half a side, either way.
    """

    paper: Range = ((240, 240, 240), (255, 255, 255))
    ink: Range = ((0, 0, 0), (40, 40, 40))
    keep: float = 1.0
    texture: str = "plain"
    strength: float = 0.0
    through: float = 0.0
    line: float = 0.0
    wobble: float = 0.0
    rough: float = 0.0
    shadow: float = 0.0
    light: float = 0.0
    blur: float = 0.0
    grain: float = 0.0
    sizes: tuple[float, float] = (0.6, 0.95)
    turn: float = 15.0
    shift: float = 0.15


def smooth_noise(side: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return (side, side) noise of mean 0 and deviation 1 whose spots are about ``scale`` pixels wide."""
    field = ndimage.gaussian_filter(rng.standard_normal((side, side)), scale, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-6)


def pattern(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return (side, side) brightness in [-1, 1] of a background pattern.

    Raises:
        ValueError: if there is no such pattern.
    """
    y, x = np.mgrid[:side, :side].astype(float)
    phase, period = rng.uniform(0, side, 2), rng.uniform(6, 11)
    if kind == "plain":
        return np.zeros((side, side))
    if kind == "ruled":
        return np.where((y + phase[0]) % period < 1.2, -1.0, 0.0)
    if kind == "grid":
        return np.where(((y + phase[0]) % period < 1) | ((x + phase[1]) % period < 1), -1.0, 0.0)
    if kind == "cloth":
        return 0.5 * (np.sin((x + phase[0]) * 1.6) + np.sin((y + phase[1]) * 1.6)) + 0.3 * smooth_noise(side, 0.6, rng)
    if kind == "wood":
        bend = 3.0 * smooth_noise(side, 9, rng) + 0.15 * smooth_noise(side, 1, rng)
        return np.sin((y + bend + phase[0]) * 2 * math.pi / period)
    if kind == "kraft":
        return np.clip(0.6 * smooth_noise(side, 1.2, rng) + 0.5 * smooth_noise(side, 5, rng), -1, 1)
    if kind == "bricks":
        row = np.floor((y + phase[0]) / period)
        return np.where(
            ((y + phase[0]) % period < 1.2) | ((x + phase[1] + period * (row % 2)) % (2 * period) < 1.2), -1.0, 0.0
        )
    if kind == "rays":
        angle = np.arctan2(y - side / 2, x - side / 2)
        return np.sign(np.sin(angle * rng.integers(7, 12) + phase[0]))
    if kind == "waves":
        return np.sin((y + 3 * np.sin((x + phase[0]) / 6) + phase[1]) * 2 * math.pi / period)
    if kind == "dots":
        return np.where(
            np.hypot((y + phase[0]) % period - period / 2, (x + phase[1]) % period - period / 2) < 1.6, -1.0, 0.2
        )
    raise ValueError(f"no pattern {kind!r}; there are {', '.join(TEXTURES)}")


def _colour(corners: Range, rng: np.random.Generator) -> np.ndarray:
    low, high = np.array(corners, float) / 255
    return low + (high - low) * rng.random()


def _placed(layers: np.ndarray, medium: Medium, rng: np.random.Generator) -> np.ndarray:
    """Turn, size, shift and bend layers (C, S, S) as the medium says."""
    side = layers.shape[1]
    angle = math.radians(rng.uniform(-medium.turn, medium.turn))
    size = rng.uniform(*medium.sizes)
    move = rng.uniform(-medium.shift, medium.shift, 2) * side / 2
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    y, x = y - move[0], x - move[1]
    where = np.stack([y * math.cos(angle) - x * math.sin(angle), y * math.sin(angle) + x * math.cos(angle)]) / size
    if medium.wobble:
        where += medium.wobble * np.stack([smooth_noise(side, 3, rng), smooth_noise(side, 3, rng)])
    where += (side - 1) / 2
    return np.stack([ndimage.map_coordinates(layer, where, order=1) for layer in layers])


def compose(tile: np.ndarray, medium: Medium, rng: np.random.Generator) -> np.ndarray:
    """Draw a tile on a page.

    Args:
        tile: uint8, a mask (S, S) or RGBA (S, S, 4).
        medium: the look.
        rng: source of the choice.

    Returns:
        RGB (S, S, 3), uint8.
    """
    side = tile.shape[0]
    ink, paper = _colour(medium.ink, rng), _colour(medium.paper, rng)
    alpha = (tile if tile.ndim == 2 else tile[..., 3]).astype(float) / 255
    if tile.ndim == 2:
        cover = _placed(_thickened(alpha, medium.line)[None], medium, rng)[0]
        drawn = ink[:, None, None] * cover
    else:
        own = tile[..., :3].transpose(2, 0, 1).astype(float) / 255
        dark = darkness(tile) / 255 / np.maximum(alpha, 1e-3)
        drawn = dark * ink[:, None, None] + (1 - dark) * paper[:, None, None]
        colour = medium.keep * own + (1 - medium.keep) * drawn
        placed = _placed(np.concatenate([colour * alpha, alpha[None]]), medium, rng)
        cover, drawn = placed[3], placed[:3]
    if medium.rough:
        flecks = smooth_noise(side, 0.9, rng)
        left = flecks <= np.quantile(flecks, 1 - medium.rough)
        cover, drawn = cover * left, drawn * left
    field = medium.strength * pattern(medium.texture, side, rng)
    page = np.clip(paper[:, None, None] + field, 0, 1)
    if medium.shadow:
        page = page * (1 - medium.shadow * ndimage.gaussian_filter(np.roll(cover, (3, 3), (0, 1)), 1.5))
    image = drawn + medium.through * field * cover + page * (1 - cover)
    if medium.light:
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
        image = image * (1 - medium.light * (0.5 + 0.5 * (math.cos(angle) * x + math.sin(angle) * y) / math.sqrt(2)))
    if medium.blur:
        image = ndimage.gaussian_filter(image, (0, medium.blur, medium.blur))
    if medium.grain:
        image = image + medium.grain * rng.standard_normal(image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)


def _thickened(alpha: np.ndarray, line: float) -> np.ndarray:
    """Return a mask with lines thicker by ``line`` pixels, thinner if it is negative."""
    if not line:
        return alpha
    whole, rest = divmod(abs(line), 1)
    change = ndimage.grey_dilation if line > 0 else ndimage.grey_erosion
    ball = ndimage.generate_binary_structure(2, 1)
    for _ in range(int(whole)):
        alpha = change(alpha, footprint=ball)
    return alpha if not rest else (1 - rest) * alpha + rest * change(alpha, footprint=ball)
