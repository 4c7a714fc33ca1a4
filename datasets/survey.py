"""Checks of the images of a custom data set before a run: unusual headers, and test images that are also trained on."""

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dassl.utils import open_image, orientation

SHOWN = 3  # examples per note or problem
TURNED, ALPHA, WIDE = "turned by EXIF data", "with transparency", "with more than 8 bits a pixel"


def unusual(path: str, decode: bool = False) -> list[str]:
    """Return what is unusual about an image: orientation, transparency, wide pixels; decoded, also "of one colour".

    Without ``decode`` only the header is read, and transparency means that there is an alpha channel. A file that is no
    image, or too large, raises ValueError with its name.
    """
    with open_image(path) as image:
        # Pillow reads a PNG file to its end to find EXIF data
        found = [TURNED] if (decode or image.format != "PNG") and orientation(image) > 1 else []
        if image.mode[0] in "IF":
            found.append(WIDE)
        alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
        if not decode:
            return [*found, ALPHA] if alpha else found
        if alpha and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            found.append(ALPHA)
        extremes = image.getextrema() if image.mode != "P" else image.convert("RGB").getextrema()
        channels = extremes if isinstance(extremes[0], tuple) else (extremes,)
        return [*found, "of one colour"] if all(low == high for low, high in channels) else found


def leaked(training: Iterable[str], test: Iterable[str]) -> list[str]:
    """Return the test images whose content is that of a training image, in their order."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for path in dict.fromkeys(training):
        sizes[os.path.getsize(path)].append(path)

    @functools.cache
    def digests(size: int) -> set[bytes]:  # only files of a size that both have are read
        return {_digest(path) for path in sizes.get(size, ())}

    candidates = [(path, digests(os.path.getsize(path))) for path in dict.fromkeys(test)]
    return [path for path, known in candidates if known and _digest(path) in known]


def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def survey(training: Sequence[str], test: Sequence[str]) -> dict[str, list[str]]:
    """Open the images for training and validation and those of the test; return note -> images, see ``unusual``."""
    notes: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys([*training, *test]):
        for note in unusual(path):
            notes[note].append(path)
    if found := leaked(training, test):
        notes["test images that are also for training or validation"] = found
    return notes


def note_lines(notes: Mapping[str, Sequence[str]], start: str) -> list[str]:
    """Return one line per note: its number of paths, the note, and some of the paths."""
    return [f"{start}{len(paths):,} {note}: {some_of(paths)}" for note, paths in notes.items()]


def some_of(paths: Sequence[str]) -> str:
    """Return the first paths as text, and the number of the others."""
    more = f" and {len(paths) - SHOWN:,} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
