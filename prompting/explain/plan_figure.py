"""Picture of ``explain plan``: prompt plans with their numbers, and where on the image each text token's mass lies."""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from prompting.explain.plans import ClassPlan, ImagePlan, evenness
from prompting.explain.style import INK, MUTED, RATIO, SETTINGS, heading

MOST_TOKENS = 8  # panels in a row
UNIFORM = "uniform: all pairs alike"
PANEL, LABELS, TOP = 1.5, 0.68, 0.95  # inches: side of a panel, height of the text around it, height of the heading


def plan_figure(image: Image.Image, plan: ImagePlan, pairs: int, title: str) -> Figure:
    """Draw the plans between an image and its classes, one row a class and pair.

    Colours are multiples of the mass in a uniform plan, on one scale in the whole figure: orange is more, blue is less,
    and a uniform plan leaves matrices and images without colour.

    Args:
        image: the part of the image that the model sees.
        plan: of ``transport_plans``.
        pairs: number of heaviest pairs of prompts whose tokens are drawn.
        title: over the figure.
    """
    rows = [(one, pair) for one in plan.classes for pair in _pairs(one, plan, pairs)]
    panels = max(len(_heats(one, pair, plan)) for one, pair in rows)
    width = max(0.5 + (PANEL + 0.45) * 2 + panels * (PANEL + 0.08) + 0.2, 8.2)
    height = TOP + len(rows) * (PANEL + LABELS + 0.12) + 0.62
    limit = _limit(rows, plan)
    style: dict[Any, Any] = {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}
    with mpl.rc_context({**SETTINGS, **style}):
        figure = Figure(figsize=(width, height), dpi=150)

        def place(x: float, y: float, w: float = PANEL, h: float = PANEL) -> Axes:
            """Axes at ``x`` inches from the left and ``y`` inches from the top."""
            return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

        heading(figure, title, _note(plan))
        axes = place(0.25, TOP + 0.2)
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        axes.set_title("image, as the model sees it", color=MUTED)
        for i, (one, pair) in enumerate(rows):
            y = TOP + 0.2 + i * (PANEL + LABELS + 0.12)
            x = 0.25 + PANEL + 0.5
            if not plan.rows_are_patches:
                if i == 0 or rows[i - 1][0] is not one:
                    _matrix(place(x, y), one, [p for c, p in rows if c is one], limit)
                x += PANEL + 0.3
            for k, (label, heat, note) in enumerate(_heats(one, pair, plan)):
                axes = place(x + k * (PANEL + 0.08), y)
                _heat(axes, image, heat, limit)
                axes.set_title(label, weight="bold" if not label.startswith("[") else "normal")
                axes.set_xlabel(note, size=7.5, labelpad=3)
                if k == 0 and not plan.rows_are_patches:
                    axes.set_ylabel(f"visual {pair[0] + 1}, text {pair[1] + 1}", size=7.5, labelpad=2)
            if plan.rows_are_patches:
                name = place(x, y - 0.24)
                name.set_axis_off()
                name.set_title(f"{one.name}  {one.probability:.1%}", weight="bold", pad=0)
        _scale(place(width - 3.0, height - 0.48, 2.6, 0.11), limit)
    return figure


def _note(plan: ImagePlan) -> str:
    if plan.rows_are_patches:
        return "Where each text prompt's mass lies on the image. No colour: as much as in a uniform plan."
    if plan.classes[0].tokens is None:
        return "How the prompts are matched, in percent of all mass. No colour: as much as in a uniform plan."
    return (
        "Left: how the prompts are matched, in percent of all mass. Right: for a framed pair, where each text token's "
        "mass lies on the image.\nNo colour: as much mass as in a uniform plan. On prompts: the share on the learned "
        "visual vectors, so nowhere on the image."
    )


def _pairs(one: ClassPlan, plan: ImagePlan, number: int) -> list[tuple[int, int]]:
    return [(0, 0)] if plan.rows_are_patches or one.tokens is None else one.heaviest(number)


def _heats(one: ClassPlan, pair: tuple[int, int], plan: ImagePlan) -> list[tuple[str, Tensor, str]]:
    """Return label, multiples of uniform mass (rows, columns) and a note of each panel."""
    patches = plan.grid[0] * plan.grid[1]
    if plan.rows_are_patches:
        mass = one.plan.unflatten(0, (-1, patches)).sum(0)  # (O, N)
        heats = (mass * mass.numel()).T.unflatten(1, plan.grid)
        return [(f"text prompt {n + 1}", heat, "") for n, heat in enumerate(heats[:MOST_TOKENS])]
    if one.tokens is None:
        return []
    m, n = pair
    notes = [f"{share:.0%} on prompts" for share in one.on_prompts(m, n, patches).tolist()]
    return list(zip(one.words[n], one.heat(m, n, plan.grid), notes))[:MOST_TOKENS]


def _limit(rows: list[tuple[ClassPlan, tuple[int, int]]], plan: ImagePlan) -> float:
    """Return the end of the colour scale, in doublings of uniform mass; at least one, so that noise stays pale."""
    parts = [heat for one, pair in rows for _, heat, _ in _heats(one, pair, plan)]
    parts += [] if plan.rows_are_patches else [one.plan * one.plan.numel() for one, _ in rows]
    largest = max(float(part.clamp_min(1e-6).log2().abs().quantile(0.95)) for part in parts)
    return min(max(1.0, math.ceil(2 * largest) / 2), 4.0)


def _matrix(axes: Axes, one: ClassPlan, framed: list[tuple[int, int]], limit: float) -> None:
    """Draw the (M, N) plan with its numbers in percent."""
    plan = one.plan
    axes.imshow(
        (plan * plan.numel()).clamp_min(1e-6).log2().numpy(), cmap=RATIO, vmin=-limit, vmax=limit, aspect="auto"
    )
    rows, columns = plan.shape
    size = 7.5 if max(rows, columns) <= 4 else 5.5
    for m in range(rows):
        for n in range(columns):
            axes.text(n, m, f"{100 * plan[m, n]:.1f}", ha="center", va="center", size=size, color=INK)
    for m, n in framed if one.tokens is not None else []:
        axes.add_patch(Rectangle((n - 0.5, m - 0.5), 1, 1, fill=False, edgecolor=INK, lw=1.8, clip_on=False, zorder=3))
    axes.set_title(f"{one.name}  {one.probability:.1%}", weight="bold")
    axes.set(
        xticks=range(columns), yticks=range(rows), xticklabels=range(1, columns + 1), yticklabels=range(1, rows + 1)
    )
    axes.tick_params(length=0, labelsize=7, pad=2)
    axes.set_ylabel("visual prompt", size=7.5, labelpad=2)
    axes.set_xlabel(f"text prompt\n{how_even(plan)}", size=7.5, labelpad=2)


def how_even(plan: Tensor) -> str:
    """Say whether a plan is uniform, to 5% of each mass, or how near its entropy is to that of a uniform plan."""
    if float((plan * plan.numel() - 1).abs().max()) < 0.05:
        return UNIFORM
    return f"{evenness(plan):.1%} of uniform entropy"


def _heat(axes: Axes, image: Image.Image, heat: Tensor, limit: float) -> None:
    """Draw multiples of uniform mass over the image in grey; the less a patch differs from 1, the more transparent."""
    grey = np.asarray(image.convert("L"), dtype=float) / 255
    axes.imshow(0.5 + 0.5 * grey, cmap="gray", vmin=0, vmax=1)
    axes.imshow(heat_layer(heat, limit, image.size), interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def heat_layer(heat: Tensor, limit: float, size: tuple[int, int]) -> Any:
    """Return colours (height, width, 4) in [0, 1] for multiples of uniform mass, transparent where they are 1.

    Args:
        heat: (rows, columns), interpolated to ``size`` (width, height).
        limit: end of the colour scale, in doublings of uniform mass.
    """
    doublings = Image.fromarray(heat.clamp_min(1e-6).log2().div(limit).clamp(-1, 1).numpy())
    smooth = np.asarray(doublings.resize(size, Image.Resampling.BICUBIC)).clip(-1, 1)
    colours = RATIO(0.5 + np.sign(smooth) * 0.5)  # an end of the scale; the strength is the opacity
    colours[..., 3] = 0.9 * np.abs(smooth) ** 0.8
    return colours


def _scale(axes: Axes, limit: float) -> None:
    """Draw the colour scale, in multiples of uniform mass."""
    axes.imshow(np.linspace(-limit, limit, 256)[None], cmap=RATIO, aspect="auto", extent=(-limit, limit, 0, 1))
    step = 1 if limit <= 2 else 2
    ticks = [t for t in range(-4, 5) if abs(t) <= limit and t % step == 0]
    axes.set(yticks=[], xticks=ticks, xticklabels=[f"×{2**t}" if t >= 0 else f"×1/{2**-t}" for t in ticks])
    axes.tick_params(length=2, labelsize=7.5, pad=2)
    axes.set_title("mass, compared with a uniform plan", size=7.5, color=MUTED, pad=3)
