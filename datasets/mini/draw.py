"""Draw small pictures from a description: figures with a colour, a texture and a shape, in a given look.

A ``Scene`` says *what* is in the picture, a ``Look`` says *how* it is drawn (medium, size, turn, clutter). Every
picture is a pure function of both and of a random generator, and ``stream(seed, ...)`` makes that generator from names,
so that a data set is fixed by its seed and the names of its parts.

Coordinates are those of a figure: (u, v) with the figure about the size of the unit circle, v pointing down.
"""

import math
import os
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 64  # side of a picture, in pixels
FINE = 2 * SIZE  # drawn at twice the size, then averaged down

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 36), "orange": (245, 140, 20), "yellow": (245, 222, 35), "green": (36, 150, 52),
    "cyan": (50, 205, 215), "blue": (34, 62, 205), "purple": (128, 36, 168), "pink": (250, 140, 190),
    "brown": (120, 70, 28), "white": (250, 250, 250), "black": (12, 12, 12), "gray": (128, 128, 128),
}  # fmt: skip


def _regular(corners: int, turn: float = -90.0) -> list[tuple[float, float]]:
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def _polar(radius: Callable[[float], float], steps: int = 72) -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / steps - math.pi / 2 for i in range(steps)]
    return [(radius(a) * math.cos(a), radius(a) * math.sin(a)) for a in angles]


def _star() -> list[tuple[float, float]]:
    outer, inner = _regular(5), _regular(5, -54.0)
    return [p for i in range(5) for p in (outer[i], (0.42 * inner[i][0], 0.42 * inner[i][1]))]


def _heart() -> list[tuple[float, float]]:
    t = [2 * math.pi * i / 60 for i in range(60)]
    y = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in t]
    return [(math.sin(a) ** 3 * 0.95, -(h + 2.5) / 16.0) for a, h in zip(t, y)]


def _moon() -> list[tuple[float, float]]:
    outer = [math.radians(50 + 260 * i / 40) for i in range(41)]
    inner = [math.radians(295 - 230 * i / 30) for i in range(31)]
    return [(math.cos(a) + 0.15, math.sin(a)) for a in outer] + [
        (0.72 * math.cos(a) + 0.50, 0.82 * math.sin(a)) for a in inner
    ]


SHAPES: dict[str, list[tuple[float, float]]] = {
    "circle": _polar(lambda a: 0.95),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
    "star": _star(),
    "heart": _heart(),
    "cross": [(-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32),
              (0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32)],
    "moon": _moon(),
    "arrow": [(-1.0, -0.3), (0.1, -0.3), (0.1, -0.85), (1.0, 0.0), (0.1, 0.85), (0.1, 0.3), (-1.0, 0.3)],
    "flower": _polar(lambda a: 0.72 + 0.28 * math.cos(5 * (a + math.pi / 2)), 100),
    "house": [(-0.75, 0.9), (-0.75, -0.1), (-1.0, -0.1), (0.0, -1.0), (1.0, -0.1), (0.75, -0.1), (0.75, 0.9)],
    "hexagon": _regular(6, 0.0),
    "drop": [(0.0, -1.0)] + [(0.68 * math.cos(a), 0.28 + 0.68 * math.sin(a))
                             for a in (math.radians(-25 + 230 * i / 40) for i in range(41))],
}  # fmt: skip


def _cell(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return u - np.floor(u) - 0.5, v - np.floor(v) - 0.5


def _bricked(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = _cell(u / 1.6 + 0.5 * np.floor(v), v)
    return (np.abs(x) < 0.41) & (np.abs(y) < 0.36)


def _scaly(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = _cell(u + 0.5 * np.floor(v), v)
    return np.hypot(x, y + 0.5) < 0.62


def _speckled(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # a hash of the cell moves its speck about and gives it its size
    key = np.sin(12.9898 * np.floor(1.6 * u) + 78.233 * np.floor(1.6 * v)) * 43758.5453
    x, y = _cell(1.6 * u, 1.6 * v)
    a, b = key - np.floor(key), 7 * key - np.floor(7 * key)
    return np.hypot(x - 0.5 * (a - 0.5), y - 0.5 * (b - 0.5)) > 0.12 + 0.22 * b


# Each texture is a function of (u, v) measured in periods: True where the first ink goes, False for the second.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "solid": lambda u, v: np.ones(u.shape, bool),
    "hollow": lambda u, v: np.ones(u.shape, bool),  # drawn as an outline, see _figure_mask
    "striped": lambda u, v: np.sin(2 * math.pi * v) > 0,
    "dotted": lambda u, v: np.hypot(*_cell(u, v)) > 0.32,
    "checkered": lambda u, v: (np.sin(math.pi * u * 1.2) > 0) ^ (np.sin(math.pi * v * 1.2) > 0),
    "wavy": lambda u, v: np.sin(2 * math.pi * (v + 0.38 * np.sin(2 * math.pi * u / 2.2))) > 0,
    "netted": lambda u, v: np.maximum(*np.abs(_cell(u, v))) > 0.33,
    "ringed": lambda u, v: np.sin(2 * math.pi * np.hypot(u, v)) > 0,
    "zigzag": lambda u, v: np.sin(2 * math.pi * (v + 1.1 * np.abs(_cell(u / 2.2, v)[0]))) > 0,
    "bricked": _bricked,
    "scaly": _scaly,
    "speckled": _speckled,
}


@dataclass(frozen=True)
class Figure:
    """One figure; ``shape`` is a key of ``SHAPES``, one letter or digit, or "fill" (the whole picture)."""

    shape: str
    texture: str = "solid"
    colour: str = "white"


@dataclass(frozen=True)
class Scene:
    """Figures and how they lie: "one", "many", "above", "left", "inside" (the first to the second)."""

    figures: tuple[Figure, ...]
    layout: str = "one"


@dataclass(frozen=True)
class Look:
    """How a scene is drawn. Lengths are fractions of half the picture's side; every pair is a range (low, high)."""

    paper: tuple[tuple[int, int, int], tuple[int, int, int]] = ((0, 0, 0), (255, 255, 255))  # background colours
    contrast: float = 0.45  # least distance of ink and background, RGB in [0, 1]
    grain: float = 0.04  # noise of the background and of the picture
    radius: tuple[float, float] = (0.62, 0.85)
    turn: float = 12.0  # degrees either way
    drift: float = 0.12  # centre, either way
    period: tuple[float, float] = (0.26, 0.36)  # of a texture
    slant: float = 25.0  # degrees either way, of a texture inside its figure
    second: str = "tone"  # second ink of a texture: "tone" (lighter or darker), "paper" (left open)
    tint: float = 1.0  # how much of the colour's name is in the ink; the rest is `medium`
    medium: tuple[int, int, int] = (255, 255, 255)
    pen: float = 0.0  # outline's width
    pen_ink: tuple[int, int, int] = (20, 20, 20)
    rough: float = 0.0  # share of the ink that misses the paper, as chalk does
    wobble: float = 0.0  # an unsteady hand, as a displacement
    blur: float = 0.0  # pixels
    ruled: float = 0.0  # strength of squared paper
    negative: bool = False
    distractors: int = 0  # small marks around
    cover: float = 0.0  # width of a bar over the figure
    jitter: float = 0.08  # of the ink's colour, RGB in [0, 1]
    fonts: tuple[str, ...] = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")


def stream(seed: int, *names: object) -> np.random.Generator:
    """Return the random generator that belongs to ``seed`` and ``names`` (set, split, index ...)."""
    return np.random.default_rng([seed] + [zlib.crc32(str(name).encode()) for name in names])


def draw(scene: Scene, look: Look, rng: np.random.Generator) -> Image.Image:
    """Draw ``scene`` in ``look``.

    Args:
        scene: what to draw.
        look: how to draw it.
        rng: source of everything left open (place, size, turn, background, noise); see ``stream``.

    Returns:
        An RGB image of SIZE x SIZE pixels.

    Raises:
        ValueError: if the scene names an unknown shape, texture, colour or layout.
    """
    _check(scene)
    inks = [_ink(figure.colour, look, rng) for figure in scene.figures]
    canvas = _background(look, inks, rng)
    for _ in range(look.distractors):
        shape = list(SHAPES)[rng.integers(len(SHAPES))]
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        place = (*(rng.uniform(-1, 1, 2)), rng.uniform(0.10, 0.20))
        _figure(canvas, Figure(shape, "solid", colour), _ink(colour, look, rng), place, look, rng)
    # last figure first: the outer one of "inside" lies below the inner one
    for figure, ink, place in reversed(list(zip(scene.figures, inks, _places(scene, look, rng)))):
        _figure(canvas, figure, ink, place, look, rng)
    if look.cover:
        u, _ = _coordinates(rng.uniform(-0.25, 0.25), 0.0, 1.0, rng.uniform(0, 180))
        bar = (np.abs(u) < look.cover / 2)[..., None]
        canvas[:] = np.where(bar, rng.uniform(0.1, 0.9, 3), canvas)
    if look.negative:
        canvas[:] = 1 - canvas
    image = _image(canvas)
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur * FINE / SIZE))
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64) / 255
    return _image(pixels + rng.normal(0, look.grain, pixels.shape))


def _image(canvas: np.ndarray) -> Image.Image:
    return Image.fromarray((canvas.clip(0, 1) * 255).round().astype(np.uint8))


def _check(scene: Scene) -> None:
    for figure in scene.figures:
        known = (
            (figure.texture, TEXTURES, "texture"),
            (figure.colour, COLOURS, "colour"),
            (figure.shape, [*SHAPES, "fill"], "shape"),
        )
        for name, allowed, kind in known:
            if name not in allowed and not (kind == "shape" and len(name) == 1):
                raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(allowed)}")
    if scene.layout not in ("one", "many", "above", "left", "inside"):
        raise ValueError(f"unknown layout {scene.layout!r}; known: one, many, above, left, inside")


def _rgb(colour: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(colour, dtype=np.float64) / 255


def _ink(colour: str, look: Look, rng: np.random.Generator) -> np.ndarray:
    pure = (_rgb(COLOURS[colour]) + rng.uniform(-look.jitter, look.jitter, 3)).clip(0, 1)
    return look.tint * pure + (1 - look.tint) * _rgb(look.medium)


def _background(look: Look, inks: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return a (FINE, FINE, 3) gradient between two paper colours from which every ink stands out, with noise."""
    ends = []
    for _ in range(2):
        tries = rng.uniform(_rgb(look.paper[0]), _rgb(look.paper[1]), (12, 3))
        gaps = np.linalg.norm(tries[:, None] - np.stack(inks), axis=2).min(1)  # (12,)
        # the first that stands out enough, else the one that stands out most
        enough = gaps >= look.contrast
        ends.append(tries[enough.argmax() if enough.any() else gaps.argmax()])
    u, v = _coordinates(0.0, 0.0, 1.0, rng.uniform(0, 360))
    mix = ((u + 1.4) / 2.8)[..., None]
    canvas = ends[0] * (1 - mix) + ends[1] * mix
    cloud = rng.normal(0, 1.2 * look.grain, (8, 8)).astype(np.float32)
    canvas += np.asarray(Image.fromarray(cloud).resize((FINE, FINE), Image.Resampling.BICUBIC))[..., None]
    if look.ruled:
        u, v = _coordinates(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), 0.25, rng.uniform(-4, 4))
        lines = (np.maximum(*np.abs(_cell(u, v))) > 0.44)[..., None]
        canvas = np.where(lines, (1 - look.ruled) * canvas + look.ruled * _rgb(look.medium), canvas)
    return canvas


def _places(scene: Scene, look: Look, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Return (x, y, radius) of each figure."""
    r, (dx, dy) = rng.uniform(*look.radius), rng.uniform(-look.drift, look.drift, 2)
    if scene.layout == "one":
        return [(dx, dy, r)]
    if scene.layout == "above":
        return [(dx, -0.46 + dy / 2, 0.55 * r), (dx + rng.uniform(-0.1, 0.1), 0.46 + dy / 2, 0.55 * r)]
    if scene.layout == "left":
        return [(-0.46 + dx / 2, dy, 0.55 * r), (0.46 + dx / 2, dy + rng.uniform(-0.1, 0.1), 0.55 * r)]
    if scene.layout == "inside":
        return [(dx, dy, 0.36 * r), (dx, dy, 1.1 * r)]
    # "many": cells of a 3 x 3 grid, so that figures never touch
    cells = rng.permutation(9)[: len(scene.figures)]
    return [
        ((c % 3 - 1) * 0.62 + rng.uniform(-0.07, 0.07), (c // 3 - 1) * 0.62 + rng.uniform(-0.07, 0.07), 0.36 * r)
        for c in cells
    ]


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(FINE) + 0.5) / FINE * 2 - 1
    return np.broadcast_to(axis, (FINE, FINE)), np.broadcast_to(axis[:, None], (FINE, FINE))


def _coordinates(x: float, y: float, scale: float, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (u, v) of every pixel in a frame at (x, y), turned by ``degrees``, in units of ``scale``."""
    gx, gy = _grid()
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c * (gx - x) + s * (gy - y)) / scale, (-s * (gx - x) + c * (gy - y)) / scale


def _outline(figure: Figure, place: tuple[float, float, float], degrees: float, look: Look,
             rng: np.random.Generator) -> list[tuple[float, float]]:  # fmt: skip
    """Return the figure's polygon in pixels of the fine canvas."""
    points = np.asarray(SHAPES[figure.shape])
    if look.wobble:
        points = points + rng.uniform(-look.wobble, look.wobble, points.shape)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points = points @ np.array([[c, s], [-s, c]]) * place[2] + np.array(place[:2])
    return [(float(px), float(py)) for px, py in (points + 1) / 2 * FINE]


def _font(name: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if name == "default":  # Pillow's own
        return ImageFont.load_default(size)
    import matplotlib

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _figure(canvas: np.ndarray, figure: Figure, ink: np.ndarray, place: tuple[float, float, float], look: Look,
            rng: np.random.Generator) -> None:  # fmt: skip
    """Paint one figure on ``canvas`` (FINE, FINE, 3), in place."""
    degrees = rng.uniform(-look.turn, look.turn)
    stencil = Image.new("L", (FINE, FINE), 0)
    pen = Image.new("L", (FINE, FINE), 0)
    brush = ImageDraw.Draw(stencil)
    if figure.shape == "fill":
        stencil.paste(255, (0, 0, FINE, FINE))
    elif figure.shape in SHAPES:
        points = _outline(figure, place, degrees, look, rng)
        loop = points + points[:2]
        if figure.texture == "hollow":
            brush.line(loop, 255, max(2, round(0.26 * place[2] * FINE / 2)), joint="curve")
        else:
            brush.polygon(points, 255)
        if look.pen:
            ImageDraw.Draw(pen).line(loop, 255, max(1, round(look.pen * FINE / 2)), joint="curve")
    else:
        font = _font(look.fonts[rng.integers(len(look.fonts))], round(2.1 * place[2] * FINE / 2))
        middle = ((place[0] + 1) / 2 * FINE, (place[1] + 1) / 2 * FINE)
        brush.text(middle, figure.shape, 255, font=font, anchor="mm")
        stencil = stencil.rotate(-degrees, Image.Resampling.BICUBIC, center=middle)
    # a texture keeps its period whatever the figure's size, up to small figures, where it shrinks
    shrink = 1.0 if figure.shape == "fill" else min(1.0, place[2] / 0.5)
    period = rng.uniform(*look.period) * shrink
    slant = rng.uniform(-look.slant, look.slant)
    u, v = _coordinates(place[0], place[1], period, degrees + slant)
    shift = (0.0, 0.0) if figure.texture == "ringed" else rng.uniform(0, 1, 2)
    first = TEXTURES[figure.texture](u + shift[0], v + shift[1])[..., None]
    cover = np.asarray(stencil, dtype=np.float64)[..., None] / 255
    if look.rough:
        cover = cover * (rng.uniform(0, 1, cover.shape) > look.rough)
    if look.second == "paper":
        canvas[:] = np.where(first, cover * ink + (1 - cover) * canvas, canvas)
    else:
        # light inks take a dark second ink and dark ones a light one
        other = 0.2 * ink if ink.mean() > 0.45 else 0.25 * ink + 0.75
        canvas[:] = cover * np.where(first, ink, other) + (1 - cover) * canvas
    if look.pen:
        line = np.asarray(pen, dtype=np.float64)[..., None] / 255
        canvas[:] = line * _rgb(look.pen_ink) + (1 - line) * canvas
