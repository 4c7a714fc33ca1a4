"""Pictures inside the page: charts as SVG in the page's colours, photos and heat maps as data URIs."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from prompting.explain.style import CYCLE, FAINT, INK, MUTED, SETTINGS
from prompting.images import read_image

# The page gives these colours other values in its dark form.
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", FAINT: "var(--faint)", CYCLE[0]: "var(--accent)"}


def chart(draw: Callable[[Axes], None], label: str, size: tuple[float, float] = (3.6, 2.4)) -> str:
    """Return a chart as an SVG element, whose text and axes take the colours of the page.

    ``draw`` draws on the axes; ``label`` says what is seen, for screen readers; ``size`` is in inches.
    """
    settings = {**SETTINGS, "svg.fonttype": "none", "svg.hashsalt": label, "savefig.transparent": True}
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    svg = re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{label}"', svg[svg.index("<svg") :], count=1
    )
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def photo(path: Path, side: int = 160) -> str:
    """Return an image as a data URI, at most ``side`` pixels wide and high; "" if the file cannot be read."""
    try:
        image = read_image(path, turn=True)
    except (OSError, ValueError):
        return ""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encoded(image)


def encoded(image: Image.Image) -> str:
    """Return an image as a data URI: PNG if small or with an alpha channel, else JPEG."""
    kind = "PNG" if image.mode == "RGBA" or max(image.size) <= 64 else "JPEG"
    content = io.BytesIO()
    image.save(content, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def layer(colours: np.ndarray) -> str:
    """Return colours (height, width, 4) in [0, 1] as the data URI of a transparent picture."""
    return encoded(Image.fromarray((255 * colours).round().astype(np.uint8), "RGBA"))
