"""The benchmark's pictures: sheets of 64 x 64 tiles in ``assets/mini_world``, and a manifest of what each tile is.

``<data set>.masks.png`` holds alpha masks (8 bits) and ``<data set>.colours.png`` RGBA pictures, 32 tiles a row.
``manifest.csv`` has a line a picture, ``pretraining.csv.gz`` one for each that pre-training sees. ``SHA256SUMS`` has
the hashes of manifest, sheets and the mini CLIP's weights; a file with another one is refused.
"""

import csv
import gzip
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
SPLITS = ("train", "val", "test")
OWN_WORDS = "own_words"  # pictures of classes that are in no data set, for a test of a user's own words
COLUMNS = 32  # tiles a row of a sheet
WORLD = Path(__file__).resolve().parents[2] / "assets" / "mini_world"
SUMS = "SHA256SUMS"  # as the command sha256sum reads and writes it


@dataclass(frozen=True)
class Entry:
    """A line of the manifest: one picture."""

    dataset: str  # folder of the data set, such as "mini_source"
    split: str  # train, val or test
    classname: str
    hand: str  # the set of the package that it is from
    icon: str  # its name in that set
    licence: str  # SPDX identifier
    hash: str  # perceptual hash, 16 hexadecimal digits
    sheet: str  # "masks" or "colours"
    tile: int  # its number on that sheet of its data set


def write_sheet(pictures: np.ndarray, path: Path) -> None:
    """Write pictures (n, 64, 64) or (n, 64, 64, 4), uint8, as one PNG."""
    count = len(pictures)
    rows = -(-count // COLUMNS)
    page = np.zeros((rows * COLUMNS, *pictures.shape[1:]), np.uint8)
    page[:count] = pictures
    page = page.reshape(rows, COLUMNS, SIDE, SIDE, -1).transpose(0, 2, 1, 3, 4)
    page = page.reshape(rows * SIDE, COLUMNS * SIDE, -1)
    Image.fromarray(page[..., 0] if page.shape[2] == 1 else page).save(path, optimize=True)


def write_manifest(entries: Iterable[Entry], path: Path) -> None:
    """Write the manifest as CSV with a header."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Entry)])
        writer.writerows(astuple(entry) for entry in entries)


def write_sums(world: Path) -> None:
    """Write the hashes of the manifest, the sheets and the mini CLIP's weights."""
    paths = sorted((world / "manifest.csv", *world.glob("*.png"), *world.glob("*.safetensors")))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    (world / SUMS).write_text("".join(lines), encoding="utf-8")


def read_checked(path: Path) -> bytes:
    """Return the content of a file of the pack; raise ValueError unless its hash is the one in ``SHA256SUMS``."""
    content, sums = path.read_bytes(), path.with_name(SUMS)
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []:
        digest, _, name = line.partition("  ")
        if name == path.name and digest != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{path} is damaged: its SHA-256 is not that of {sums}; restore it (git checkout {path})")
    return content


@lru_cache(maxsize=4)
def read_manifest(world: Path = WORLD) -> tuple[Entry, ...]:
    """Return the lines of the manifest; raise if it is missing or damaged."""
    lines = read_checked(world / "manifest.csv").decode("utf-8").splitlines()
    return tuple(Entry(**{**row, "tile": int(row["tile"])}) for row in csv.DictReader(lines))  # type: ignore[arg-type]


def write_pretraining(rows: Iterable[tuple[str, str, str]], path: Path) -> None:
    """Write (hand, icon, hash) of what pre-training sees; the file is the same for the same rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("hand", "icon", "hash"))
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def read_pretraining(world: Path = WORLD) -> list[tuple[str, str, str]]:
    """Return (hand, icon, hash) of each picture that pre-training sees."""
    with gzip.open(world / "pretraining.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return [(row["hand"], row["icon"], row["hash"]) for row in csv.DictReader(file)]


@lru_cache(maxsize=2)
def _sheet(path: Path) -> np.ndarray:
    page = np.asarray(Image.open(io.BytesIO(read_checked(path))))
    rows, columns = page.shape[0] // SIDE, page.shape[1] // SIDE
    tiles = page.reshape(rows, SIDE, columns, SIDE, -1).transpose(0, 2, 1, 3, 4).reshape(rows * columns, SIDE, SIDE, -1)
    return tiles[..., 0] if tiles.shape[3] == 1 else tiles


def read_picture(entry: Entry, world: Path = WORLD) -> np.ndarray:
    """Return a picture, uint8: a mask (64, 64) or RGBA (64, 64, 4)."""
    return _sheet(world / f"{entry.dataset}.{entry.sheet}.png")[entry.tile]


@lru_cache(maxsize=64)
def by_class(dataset: str) -> dict[str, dict[str, list[Entry]]]:
    """Return the pictures of a data set: class -> split -> entries, classes in the order of the manifest."""
    table: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: {split: [] for split in SPLITS})
    for entry in read_manifest():
        if entry.dataset == dataset:
            table[entry.classname][entry.split].append(entry)
    return dict(table)
