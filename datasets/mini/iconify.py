"""The pictures of the npm package ``@iconify/json``: permitted sets, their icons and how an icon is rendered.

``json/<set>.json`` holds the bodies of a set's SVGs, ``collections.json`` its licence, author and category.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .pack import SIDE

_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
LICENCES = {  # SPDX identifiers of the permitted licences, and where their texts are
    "MIT": "licences/MIT.txt",
    "ISC": "licences/ISC.txt",
    "Apache-2.0": "licences/Apache-2.0.txt",
    "OFL-1.1": "licences/OFL-1.1.txt",
    "CC0-1.0": "licences/CC0-1.0.txt",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/legalcode",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
}
TRADEMARK_CATEGORIES = ("Logos", "Programming")
# Sets of companies' marks that stand in another category.
TRADEMARK_SETS = ("fa-brands", "fa6-brands", "academicons", "ginetex", "fontisto")
# The same drawings as another set of the list, in another finish.
COPIES = ("ic", "material-symbols-light", "fluent-emoji", "fa", "fa6-regular", "fa6-solid")


@dataclass(frozen=True)
class IconSet:
    """One set of the package."""

    name: str  # its prefix, such as "tabler"
    title: str
    author: str
    licence: str  # SPDX identifier
    url: str  # where the author publishes it
    coloured: bool  # whether its icons have colours
    styles: tuple[str, ...]  # prefixes and suffixes of icon names that name only a style, longest first


@dataclass(frozen=True)
class Icon:
    """One icon: its name in the set, its width and height, and its whole SVG."""

    name: str
    size: tuple[float, float]
    svg: str


def read_sets(package: Path) -> list[IconSet]:
    """Return the permitted sets of an unpacked package, by name; raise FileNotFoundError if the folder is none."""
    index = package / "collections.json"
    if not index.is_file():
        raise FileNotFoundError(f"{package} is not an unpacked @iconify/json: {index.name} is missing")
    sets = []
    for name, about in sorted(json.loads(index.read_text(encoding="utf-8")).items()):
        licence, category = about["license"].get("spdx", ""), about.get("category", "")
        if licence not in LICENCES or category in TRADEMARK_CATEGORIES or name in (*TRADEMARK_SETS, *COPIES):
            continue
        content = _content(package, name)
        words = [word for key in ("suffixes", "prefixes") for word in content.get(key, {}) if word]
        author = about["author"]
        sets.append(
            IconSet(name, about["name"], author["name"], licence, author.get("url", ""), bool(about.get("palette")),
                    tuple(sorted(words, key=len, reverse=True)))
        )  # fmt: skip
    return sets


def _content(package: Path, name: str) -> dict:
    return json.loads((package / "json" / f"{name}.json").read_text(encoding="utf-8"))


def read_icons(package: Path, name: str) -> Iterator[Icon]:
    """Yield the icons of a set that are not hidden. Aliases are the same drawings and are left out."""
    content = _content(package, name)
    for icon, about in content["icons"].items():
        if about.get("hidden"):
            continue
        left, top, width, height = (
            about.get(key, content.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        frame = f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"'
        yield Icon(icon, (width, height), f"<svg {_NAMESPACES} {frame}>{about['body']}</svg>")


def render(icon: Icon, coloured: bool) -> np.ndarray | None:
    """Draw an icon in the middle of a square, with its proportions; ``currentColor`` is black.

    Returns:
        uint8: the alpha mask (64, 64), or RGBA (64, 64, 4) if ``coloured``. None if it does not render or is empty.
    """
    import resvg_py  # only the maintainer's command needs it

    width, height = icon.size
    side = {"width": SIDE} if width >= height else {"height": SIDE}
    try:
        data = resvg_py.svg_to_bytes(svg_string=icon.svg, skip_system_fonts=True, **side)
    except ValueError:
        return None
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE))
    page = Image.new("RGBA", (SIDE, SIDE))
    page.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    pixels = np.asarray(page)
    if pixels[..., 3].max() < 64:
        return None
    return pixels.copy() if coloured else pixels[..., 3].copy()


def trademarks(package: Path, least: int = 3) -> frozenset[str]:
    """Return the names, in words, that occur in at least ``least`` sets of companies' marks."""
    found: Counter[str] = Counter()
    for name, about in json.loads((package / "collections.json").read_text(encoding="utf-8")).items():
        if about.get("category") == "Logos" or name in TRADEMARK_SETS:
            found.update({re.sub(r"-(icon|light|dark|wordmark|original|plain|line|\d+)$", "", icon).replace("-", " ")
                          for icon in _content(package, name)["icons"]})  # fmt: skip
    return frozenset(word for word, count in found.items() if count >= least)
