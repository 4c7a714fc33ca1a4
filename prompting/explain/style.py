"""Colours and settings that all pictures share; readable with every kind of colour blindness."""

from pathlib import Path
from typing import Any

from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

INK, MUTED, FAINT = "#23272f", "#6b7280", "#d5d9e0"
MORE, LESS = "#d55e00", "#0072b2"  # more mass than a uniform plan, less mass
CYCLE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#999999", "#b8a200", "#23272f"]
"""Okabe and Ito's colours and three more, for methods and classes."""
RATIO = LinearSegmentedColormap.from_list("ratio", [LESS, "#9fc6e0", "#f6f6f4", "#f2b184", MORE])
"""Of log2(mass / uniform mass): blue below a uniform plan, orange above, almost white for uniform mass."""

SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,  # a class name may hold two dollar signs
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
"""Matplotlib's settings for charts (``matplotlib.rc_context``)."""


def colour(number: int) -> str:
    """Return the colour of series ``number``; they repeat after ten."""
    return to_hex(CYCLE[number % len(CYCLE)])


def drawable_name(path: Path, parts: int = 1) -> str:
    """Return the last parts of a path as text that can be drawn; a name need not be UTF-8."""
    return "/".join(path.parts[-parts:]).encode("utf-8", "backslashreplace").decode()


def heading(figure: Figure, title: str, note: str) -> None:
    """Write a title, and under it in grey what the picture shows, at the top left of a figure without a layout."""
    width, height = figure.get_size_inches()
    figure.text(0.25 / width, 1 - 0.14 / height, title, size=13, weight="bold", va="top", color=INK)
    figure.text(0.25 / width, 1 - 0.42 / height, note, size=9, va="top", color=MUTED)
