"""The mini sets as data, and how one is written to disk in CoOp's layout.

``ROOT/mini_source/images/<class_folder>/<n>.png``, ``ROOT/mini_source/split_mini_source.json`` and ``mini.json``, which
marks the folder as ours and says which drawing it holds.
"""

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from . import draw as drawing
from .draw import COLOURS, SIZE, Figure, Look, Scene, draw, stream
from .world import COUNTS, DIGITS, FIGURE_TEXTURES, FILL_TEXTURES, LETTERS, LOOKS, plural

log = logging.getLogger(__name__)

SEED = 2024
DIGIT_SIZE = 40  # of SIZE: as tall as printed ones
MARKER = "mini.json"
SPLITS = ("train", "val", "test")

# ---------------------------------------------------------------------------------------------------------------------
# Difficulty: the looks of the sets. None of them is a look of pre-training. The numbers were chosen after
# pre-training, so that zero-shot accuracy of the mini CLIP leaves room above and below: how high it is says how the
# suite was set, not how good the model is.
# ---------------------------------------------------------------------------------------------------------------------
CHALK = Look(
    paper=((20, 44, 36), (40, 66, 56)), contrast=0.0, grain=0.05, radius=(0.55, 0.8), turn=18.0, drift=0.15,
    second="paper", tint=0.35, medium=(235, 235, 225), rough=0.29, wobble=0.03, ruled=0.22, pen=0.03,
    pen_ink=(235, 235, 225),
)  # fmt: skip
PENCIL = replace(
    CHALK, paper=((225, 222, 214), (250, 248, 242)), tint=0.0, medium=(70, 70, 75), pen_ink=(70, 70, 75), ruled=0.0,
    rough=0.35, grain=0.03, wobble=0.05,
)  # fmt: skip
CLUTTER = replace(CHALK, distractors=2, cover=0.04, rough=0.1)
RENDITION = Look(
    paper=((150, 90, 30), (235, 190, 120)), contrast=0.2, grain=0.08, radius=(0.55, 0.8), turn=18.0, drift=0.15,
    tint=0.7, medium=(90, 40, 120), blur=0.9, wobble=0.08, negative=True, pen=0.04, pen_ink=(250, 240, 200),
)  # fmt: skip
DUSK = replace(LOOKS["photo"], radius=(0.4, 0.7), turn=25.0, drift=0.22, tint=0.64, medium=(120, 60, 90), grain=0.085)
CROWD = replace(LOOKS["photo"], turn=20.0, grain=0.05, tint=0.85, medium=(60, 90, 120))
PLACES = replace(LOOKS["photo"], turn=20.0, grain=0.06, tint=0.85, medium=(120, 90, 60))
CLOTH = replace(
    LOOKS["photo"], period=(0.14, 0.6), slant=180.0, tint=0.5, medium=(150, 130, 110), rough=0.15, grain=0.10
)  # fmt: skip
PRINT = replace(
    LOOKS["photo"], turn=15.0, drift=0.15, grain=0.06,
    fonts=("default", "STIXGeneral.ttf", "STIXGeneralBolIta.ttf", "cmb10.ttf", "cmss10.ttf", "cmtt10.ttf"),
)  # fmt: skip


@dataclass(frozen=True)
class MiniSet:
    """A mini set.

    Args:
        name: registry name.
        classes: (class name, scene) in the order of labels; colour "any" is drawn anew for each picture.
        look: how it is drawn; None for scikit-learn's digits, which are photographs of handwriting.
        sizes: train, val and test pictures a class.
        test_only: see ``datasets.registry.Description``.
    """

    name: str
    classes: tuple[tuple[str, Scene], ...]
    look: Look | None
    sizes: tuple[int, int, int] = (20, 4, 12)
    test_only: bool = False

    @property
    def folder(self) -> str:
        """Folder under the root: the name in snake case."""
        return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(self.name))

    @property
    def split_file(self) -> str:
        """Name of the split file."""
        return f"split_{self.folder}.json"

    @property
    def fingerprint(self) -> str:
        """Changes with the set's description and with ``draw.py``: what is on disk is then drawn anew."""
        return hashlib.sha256((repr(self) + str(SEED) + inspect.getsource(drawing)).encode()).hexdigest()[:16]


def _one(shape: str, texture: str = "solid", colour: str = "any") -> Scene:
    return Scene((Figure(shape, texture, colour),))


SOURCE_SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "arrow", "flower", "house")


def source_classes() -> tuple[tuple[str, Scene], ...]:
    """Return 40 of the 80 pairs of texture and shape; labels 0-19 (base) and 20-39 (new) hold each of either.

    Label l has texture l mod 8 and shape (l div 8 + 7 (l mod 8) + 2) mod 10; five of either half are held out of
    pre-training.
    """
    pairs = [(FIGURE_TEXTURES[i % 8], SOURCE_SHAPES[(i // 8 + 7 * (i % 8) + 2) % 10]) for i in range(40)]
    return tuple((f"{texture} {shape}", _one(shape, texture)) for texture, shape in pairs)


def _colour_classes() -> Iterator[tuple[str, Scene]]:
    shapes = ("star", "heart", "triangle", "circle", "square", "moon", "cross", "flower")
    for i in range(24):
        colour, shape = list(COLOURS)[i % 12], shapes[(i + 3 * (i // 12)) % 8]
        yield f"{colour} {shape}", _one(shape, colour=colour)


def _count_classes() -> Iterator[tuple[str, Scene]]:
    for number in (2, 3, 4, 5):
        for shape in ("star", "circle", "heart", "square", "triangle"):
            yield f"{COUNTS[number]} {plural(shape)}", Scene((Figure(shape, "solid", "any"),) * number, "many")


def _relation_classes() -> Iterator[tuple[str, Scene]]:
    words = {"above": "a {} above a {}", "left": "a {} left of a {}", "inside": "a {} inside a {}"}
    pairs = (("circle", "square"), ("star", "circle"), ("heart", "star"), ("cross", "triangle"), ("square", "heart"),
             ("triangle", "circle"))  # fmt: skip
    for layout, form in words.items():
        for a, b in pairs:
            yield form.format(a, b), Scene((Figure(a, "solid", "any"), Figure(b, "solid", "any")), layout)


def _glyph_classes(noun: str, glyphs: str) -> tuple[tuple[str, Scene], ...]:
    return tuple((f"{noun} {glyph.lower()}", _one(glyph)) for glyph in glyphs)


_SOURCE = source_classes()
SUITE: dict[str, MiniSet] = {
    s.folder: s
    for s in (
        MiniSet("MiniSource", _SOURCE, CHALK, (24, 4, 25)),
        MiniSet("MiniSourceV2", _SOURCE, replace(CHALK, turn=22.0, drift=0.18), (0, 0, 10), test_only=True),
        MiniSet("MiniSketch", _SOURCE, PENCIL, (0, 0, 10), test_only=True),
        MiniSet("MiniClutter", _SOURCE[::2], CLUTTER, (0, 0, 15), test_only=True),
        MiniSet("MiniRendition", _SOURCE[1::2], RENDITION, (0, 0, 15), test_only=True),
        MiniSet("MiniColors", tuple(_colour_classes()), DUSK),
        MiniSet("MiniCounts", tuple(_count_classes()), CROWD),
        MiniSet("MiniRelations", tuple(_relation_classes()), PLACES),
        MiniSet("MiniTextures", tuple((t, _one("fill", t)) for t in FILL_TEXTURES), CLOTH, (20, 4, 25)),
        MiniSet("MiniLetters", _glyph_classes("letter", LETTERS), PRINT),
        MiniSet("MiniDigits", _glyph_classes("digit", DIGITS), None, (80, 20, 50)),
    )
}


def _settle(scene: Scene, rng: np.random.Generator) -> Scene:
    """Give every figure of colour "any" a colour: figures of a count share one, figures of a relation differ."""
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))]
    if scene.layout == "many":
        colours = colours[:1] * len(scene.figures)
    figures = (replace(f, colour=c) if f.colour == "any" else f for f, c in zip(scene.figures, colours))
    return replace(scene, figures=tuple(figures))


@lru_cache(maxsize=1)
def _handwriting() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


def _digit(number: int, index: int) -> Image.Image:
    """Return scikit-learn's picture ``index`` of a digit (8 x 8, 17 grays), enlarged, as dark ink on light paper."""
    images, target = _handwriting()
    ink = Image.fromarray((images[np.flatnonzero(target == number)[index]] * (255 / 16)).astype(np.uint8))
    page = Image.new("L", (SIZE, SIZE), 0)
    page.paste(ink.resize((DIGIT_SIZE, DIGIT_SIZE), Image.Resampling.BICUBIC), ((SIZE - DIGIT_SIZE) // 2,) * 2)
    return ImageOps.colorize(page, black=(245, 245, 245), white=(10, 10, 10))


def picture(mini: MiniSet, split: str, label: int, number: int, seed: int = SEED) -> Image.Image:
    """Draw picture ``number`` of class ``label`` in a split: a pure function of its arguments."""
    if mini.look is None:
        return _digit(label, sum(mini.sizes[: SPLITS.index(split)]) + number)
    rng = stream(seed, mini.name, split, label, number)
    return draw(_settle(mini.classes[label][1], rng), mini.look, rng)


def ensure(mini: MiniSet, root: Path) -> bool:
    """Draw a set under ``root`` unless it is there, complete and up to date.

    The set is drawn beside its place and moved there when it is complete. An older drawing of ours is replaced; a
    folder that holds anything else is left alone.

    Args:
        mini: the set.
        root: the folder of data sets; it is made if it is missing.

    Returns:
        Whether anything was drawn.

    Raises:
        FileExistsError: if something that is not ours is in the way.
    """
    place = Path(root) / mini.folder
    if _complete(mini, place):
        return False
    if place.exists():
        _check_ours(place)
    log.info("Drawing %s (%d pictures) in %s", mini.name, sum(mini.sizes) * len(mini.classes), place)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(mini, part)
        if place.exists() and not _complete(mini, place):
            old = place.with_name(f".{place.name}.{os.getpid()}.old")
            os.rename(place, old)
            shutil.rmtree(old)
        try:
            os.rename(part, place)
        except OSError:  # a run beside this one was quicker
            if not _complete(mini, place):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _write(mini: MiniSet, place: Path) -> None:
    split: dict[str, list] = {name: [] for name in SPLITS}
    jobs = [(s, c, n) for s, size in zip(SPLITS, mini.sizes) for c in range(len(mini.classes)) for n in range(size)]
    for name, label, number in tqdm(jobs, desc=f"drawing {mini.folder}", unit="picture", leave=False):
        classname = mini.classes[label][0]
        # numbers go on from split to split, so that no file name is used twice
        path = f"{classname.replace(' ', '_')}/{sum(mini.sizes[: SPLITS.index(name)]) + number:04d}.png"
        target = place / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        picture(mini, name, label, number).save(target)
        split[name].append([path, label, classname])
    if mini.test_only:
        split = {"train": split["test"], "val": [], "test": split["test"]}
    (place / mini.split_file).write_text(json.dumps(split), encoding="utf-8")
    (place / MARKER).write_text(json.dumps({"fingerprint": mini.fingerprint, "pictures": len(jobs)}), encoding="utf-8")


def _complete(mini: MiniSet, place: Path) -> bool:
    try:
        mark = json.loads((place / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    count = sum(1 for _ in (place / "images").glob("*/*.png"))
    return mark == {"fingerprint": mini.fingerprint, "pictures": count} and (place / mini.split_file).is_file()


def _check_ours(place: Path) -> None:
    """Raise FileExistsError unless ``place`` holds our marker and nothing but what we and few-shot draws put there."""
    if not (place / MARKER).is_file():
        raise FileExistsError(f"{place} is in the way: it was not drawn by this program ({MARKER} is missing); move it")
    ours = ("images/*/*.png", "split_mini_*.json", MARKER, "split_fewshot/shot_*.json")
    known = {path for pattern in ours for path in place.glob(pattern)}
    foreign = next((path for path in sorted(place.rglob("*")) if not path.is_dir() and path not in known), None)
    if foreign is not None:
        raise FileExistsError(f"{place} holds an older drawing and a file that is not part of it; move {foreign} first")
