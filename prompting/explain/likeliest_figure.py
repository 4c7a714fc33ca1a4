"""Picture of ``predict --figure``: images, each with its likeliest classes as bars."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from prompting.explain.style import FAINT, INK, MUTED, SETTINGS, colour, heading

MOST = 24  # images in a picture
SIDE, BARS, LABEL, GAP, TOP = 1.25, 2.2, 0.25, 0.25, 0.7  # inches: image, bars, file name, between, heading


def likeliest_figure(
    images: Sequence[Image.Image], names: Sequence[str], classes: Sequence[Sequence[tuple[str, float]]], title: str
) -> Figure:
    """Draw images in up to three columns, with bars from 0 to 100 % for their classes.

    Args:
        images: the parts of the images that the model sees.
        names: their file names.
        classes: for each image its likeliest classes with their probabilities, in descending order.
        title: over the picture.
    """
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    width = max(GAP + columns * (SIDE + BARS + 2 * GAP), 6.2)
    height = TOP + rows * (LABEL + SIDE + GAP)
    with mpl.rc_context({**SETTINGS, "axes.grid": False}):
        figure = Figure(figsize=(width, height), dpi=150)
        note = "The part of each image that the model sees, and the probabilities of its likeliest classes."
        heading(figure, title, note)
        for i, (image, name, found) in enumerate(zip(images, names, classes)):
            left = GAP + i % columns * (SIDE + BARS + 2 * GAP)
            bottom = height - TOP - (i // columns + 1) * (LABEL + SIDE) - i // columns * GAP
            photo, bars = (
                figure.add_axes((x / width, bottom / height, w / width, SIDE / height))
                for x, w in ((left, SIDE), (left + SIDE + GAP / 2, BARS))
            )
            photo.imshow(image)
            photo.set_title(name if len(name) < 46 else f"{name[:44]}…", color=MUTED, size=8)
            _bars(bars, found)
            for axes in (photo, bars):
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
    return figure


def _bars(axes: Axes, classes: Sequence[tuple[str, float]]) -> None:
    """Draw a bar for each class, with name and percentage on it, the likeliest on top and in colour."""
    style: dict[str, Any] = {"va": "center", "size": 8.5, "color": INK}
    for i, (name, probability) in enumerate(classes):
        axes.barh(i, 1, height=0.82, color=FAINT, alpha=0.35)
        axes.barh(i, probability, height=0.82, color=MUTED if i else colour(0), alpha=0.4)
        axes.text(0.02, i, name if len(name) < 26 else f"{name[:24]}…", weight="normal" if i else "bold", **style)
        axes.text(0.98, i, f"{probability:.1%}", ha="right", **style)
    axes.set(xlim=(0, 1), ylim=(max(len(classes), 5) - 0.5, -0.5))
