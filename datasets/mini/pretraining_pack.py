"""The pictures that the mini CLIP is pre-trained on, in a cache folder: written by the build, read by pre-training.

``masks.npy`` (n, 64, 64) and ``colours.npy`` (m, 64, 64, 4) are uint8; ``pictures.json`` holds the names and, for each
picture (masks, then colours) its name, its set's name for it, its set, its icon name and its hash.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .names import suite_class
from .rendering import pixels_of
from .roles import Picture

LEAST = 3  # pictures of a name


def default_folder() -> Path:
    """Return the cache folder of the pack: under ``XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache / "align-clip" / "mini-pretraining"


@dataclass(frozen=True)
class Pack:
    """Pre-training pictures."""

    masks: np.ndarray  # (n, 64, 64) uint8, pictures of one colour
    colours: np.ndarray  # (m, 64, 64, 4) uint8, RGBA
    names: list[str]  # canonical names
    said: list[str]  # plain names, as sets say them
    name: np.ndarray  # (n + m,) index into ``names``
    alias: np.ndarray  # (n + m,) index into ``said``
    in_suite: np.ndarray  # (len(names),) bool, whether the name is a class that the suite may use

    @property
    def digest(self) -> str:
        """Return a short hash of the names and of which picture has which; indices mean the same for equal digests."""
        content = "\n".join(self.names).encode() + self.name.astype(np.int64).tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def counts(self) -> np.ndarray:
        """Pictures of each name."""
        return np.bincount(self.name, minlength=len(self.names))


def usable(pictures: list[Picture]) -> list[Picture]:
    """Return the pictures whose name has letters and occurs often enough; of equal hashes and names the first."""
    first: dict[tuple[str, int], Picture] = {}
    for picture in pictures:
        if any(c.isalpha() for c in picture.name) and len(picture.name) <= 40:
            first.setdefault((picture.name, picture.hash), picture)
    counts = Counter(name for name, _ in first)
    return [picture for (name, _), picture in first.items() if counts[name] >= LEAST]


def write_pack(pictures: list[Picture], rendered: Path, coloured: frozenset[str], folder: Path) -> int:
    """Write the pack of the pictures that pre-training may see into ``folder``; return its number of pictures.

    ``rendered`` is the folder of rendered sets, ``coloured`` the sets whose icons have colours.
    """
    chosen = sorted(usable(pictures), key=lambda p: (p.hand in coloured, p.hand, p.row))
    rows: dict[str, list[int]] = defaultdict(list)
    for picture in chosen:
        rows[picture.hand].append(picture.row)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, file in ((False, "masks.npy"), (True, "colours.npy")):
        parts = [pixels_of(rendered, hand)[rows[hand]] for hand in rows if (hand in coloured) == kind]
        np.save(folder / file, np.concatenate(parts))
    names, said = sorted({p.name for p in chosen}), sorted({p.said for p in chosen})
    at, alias = {n: i for i, n in enumerate(names)}, {n: i for i, n in enumerate(said)}
    table = {
        "names": names,
        "said": said,
        "pictures": [[at[p.name], alias[p.said], p.hand, p.icon, f"{p.hash:016x}"] for p in chosen],
    }
    (folder / "pictures.json").write_text(json.dumps(table), encoding="utf-8")
    return len(chosen)


def read_pack(folder: Path) -> Pack:
    """Read the pack into memory; raise FileNotFoundError if it was not built."""
    if not (folder / "pictures.json").is_file():
        raise FileNotFoundError(f"no pre-training pictures in {folder}: run `python -m datasets.mini.build` first")
    table = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
    name, alias = (np.array([row[i] for row in table["pictures"]]) for i in (0, 1))
    known = np.array([suite_class(n) is not None for n in table["names"]])
    masks, colours = (np.load(folder / file) for file in ("masks.npy", "colours.npy"))
    return Pack(masks, colours, table["names"], table["said"], name, alias, known)
