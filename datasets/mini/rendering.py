"""Render the permitted sets once into a cache folder: an array of pixels and a list of names and hashes a set."""

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from dassl.utils import write_atomically
from tqdm import tqdm

from .iconify import IconSet, read_icons, render
from .likeness import perceptual_hash


def render_set(icons: IconSet, package: Path, folder: Path) -> int:
    """Write ``<set>.npy`` and ``<set>.json`` into ``folder`` unless they exist; return how many were rendered now.

    The array is uint8, (n, 64, 64) masks or (n, 64, 64, 4) RGBA; the list has names and hashes (16 hex digits) in the
    same order. Skin tones of one emoji are one drawing and are left out, as are icons that do not render.
    """
    index = folder / f"{icons.name}.json"
    if index.exists():
        return 0
    names, pixels = [], []
    for icon in read_icons(package, icons.name):
        picture = None if "skin-tone" in icon.name else render(icon, icons.coloured)
        if picture is not None:
            names.append(icon.name)
            pixels.append(picture)
    hashes = [f"{perceptual_hash(picture):016x}" for picture in pixels]
    np.save(folder / f"{icons.name}.npy", np.stack(pixels))
    content = json.dumps({"names": names, "hashes": hashes})
    write_atomically(str(index), lambda part: Path(part).write_text(content, encoding="utf-8"))
    return len(names)


def render_sets(sets: list[IconSet], package: Path, folder: Path, workers: int) -> int:
    """Render all sets that ``folder`` lacks, in several processes; return how many icons were rendered now."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        done = pool.map(partial(render_set, package=package, folder=folder), sets)
        return sum(tqdm(done, total=len(sets), desc="rendering", unit="set", mininterval=5))


def pixels_of(folder: Path, hand: str) -> np.ndarray:
    """Return a set's array, not read into memory before it is used."""
    return np.load(folder / f"{hand}.npy", mmap_mode="r")
