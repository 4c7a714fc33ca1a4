"""Which pictures the benchmark uses and which pre-training does: roles by hand, splits by drawing."""

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from scipy.sparse.csgraph import connected_components

from .likeness import NEAR, copies_of, distances, distinct
from .names import plain_name, suite_class
from .pack import SPLITS

_TABLE = yaml.safe_load(Path(__file__).with_name("hands.yaml").read_text(encoding="utf-8"))
SHIFTS = ("mini_rendition", "mini_sketch", "mini_pixel", "mini_negative")
HANDS = {role: frozenset(_TABLE[role]) for role in ("benchmark", *SHIFTS)}  # sets of the package by what they are for
HELD_OUT = frozenset().union(*HANDS.values())  # sets that pre-training never sees
FAMILIES = {hand: family for family, members in _TABLE["families"].items() for hand in members}
SOURCE = "mini_source"
DIGITS = "mini_digits"  # its pictures are scikit-learn's, not the package's
FULL = {"train": 16, "val": 4, "test": 12}  # distinct pictures a class of the source
LEAST = {"train": 3, "val": 1, "test": 6}  # of a target, whose classes are the classes that have as many
LEAST_SHIFT = 6
KNOWN = 1 / 3  # least share of a class's pictures in use that are pre-training's


@dataclass(frozen=True)
class Picture:
    """A rendered icon."""

    hand: str  # the set that it is from
    icon: str  # its name in that set
    name: str  # its class if that is one of the suite, else its plain name
    said: str  # its plain name
    hash: int  # perceptual hash
    row: int  # of its pixels in the set's array
    dataset: str = ""  # data set of the suite that its class belongs to, or ""
    used: str = ""  # "pretraining", or "<data set>/<split>"


def read_pictures(folder: Path, styles: dict[str, tuple[str, ...]], trademarks: frozenset[str]) -> list[Picture]:
    """Return all icons in the folder of rendered sets with their names, without trademarks.

    ``styles`` has the style words of each set to read, ``trademarks`` the plain names of companies' marks.
    """
    pictures = []
    for hand in sorted(styles):
        content = json.loads((folder / f"{hand}.json").read_text(encoding="utf-8"))
        for row, (icon, code) in enumerate(zip(content["names"], content["hashes"])):
            said = plain_name(icon, styles[hand])
            found = suite_class(said, hand)
            if found is None and (said in trademarks or said.split()[0] in ("brand", "logo", "logos", "social")):
                continue
            dataset, name = found or ("", said)
            pictures.append(Picture(hand, icon, name, said, int(code, 16), row, dataset))
    return pictures


def _drawings(pictures: list[Picture]) -> list[list[Picture]]:
    """Group pictures that are one drawing in several styles: same family and name, or nearly the same hash."""
    first: dict[tuple[str, str], int] = {}
    codes = np.array([p.hash for p in pictures], np.uint64)
    near = distances(codes, codes) <= NEAR + 2
    for i, picture in enumerate(pictures):
        key = (FAMILIES.get(picture.hand, picture.hand), picture.said)
        near[i, first.setdefault(key, i)] = True
    groups: dict[int, list[Picture]] = defaultdict(list)
    for picture, number in zip(pictures, connected_components(near, directed=False)[1]):
        groups[number].append(picture)
    return list(groups.values())


def _generator(*words: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(words).encode()))


def split_class(pictures: list[Picture], sizes: dict[str, int]) -> dict[str, list[Picture]] | None:
    """Divide a class of distinct pictures into test, val and train, no drawing in two; None if there are too few.

    Each split needs ``sizes`` pictures; it gets more if there are enough, at most ``FULL``.
    """
    if not pictures:
        return None
    groups = _drawings(pictures)
    _generator(pictures[0].dataset, pictures[0].name).shuffle(groups)
    count = len(pictures)
    spare = max(0, count - sum(sizes.values()))
    wanted = {s: min(FULL[s], sizes[s] + round(spare * FULL[s] / sum(FULL.values()))) for s in ("test", "val", "train")}
    parts: dict[str, list[Picture]] = {s: [] for s in SPLITS}
    # Large groups first where they fit, so that no split is short because a group was too large for its rest.
    for group in sorted(groups, key=len, reverse=True):
        open_splits = [s for s in wanted if len(parts[s]) < wanted[s]]
        if not open_splits:
            break
        split = max(open_splits, key=lambda s: wanted[s] - len(parts[s]))
        parts[split] += group[: wanted[split] - len(parts[split])]
    return parts if all(len(parts[s]) >= sizes[s] for s in SPLITS) else None


def choose(pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Return the pictures of the benchmark and those of pre-training, with ``used`` set.

    A class is kept if its splits have enough pictures and if at least the share ``KNOWN`` of its used pictures is
    pre-training's. Pictures that are nearly the same drawing as one of the benchmark are not used in pre-training.
    """
    shown: dict[tuple[str, str], list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.hand in HELD_OUT and picture.dataset and picture.dataset != DIGITS:
            shown[picture.dataset, picture.name].append(picture)
    known = [p for p in pictures if p.hand not in HELD_OUT]
    share = Counter((p.dataset, p.name) for p in known)
    chosen: list[Picture] = []
    for key, found in sorted(shown.items()):
        source = key[0] == SOURCE
        # hands in turn, so that no hand with many finishes crowds the others out
        own = _in_turn([p for p in found if not source or p.hand in HANDS["benchmark"]])
        own = [own[i] for i in distinct([p.hash for p in own])]
        parts = split_class(own, FULL if source else LEAST)
        if parts is None or share[key] < KNOWN * (share[key] + sum(map(len, parts.values()))):
            continue
        for split, part in parts.items():
            chosen += [replace(p, used=f"{key[0]}/{split}") for p in part]
        for shift in SHIFTS if source else ():
            own = _in_turn([p for p in found if p.hand in HANDS[shift]])
            kept = [own[i] for i in distinct([p.hash for p in own])]
            kept = without_copies(kept, [p for p in chosen if (p.dataset, p.name) == key])
            if len(kept) >= LEAST_SHIFT:
                chosen += [replace(p, used=f"{shift}/test") for p in kept[: FULL["test"]]]
    return chosen, [replace(p, used="pretraining") for p in without_copies(known, chosen)]


def without_copies(pictures: list[Picture], others: Iterable[Picture]) -> list[Picture]:
    """Return the pictures that are not nearly the same drawing as one of the others."""
    codes, known = (np.array([p.hash for p in part], np.uint64) for part in (pictures, others))
    return [picture for picture, copy in zip(pictures, copies_of(codes, known)) if not copy]


def _in_turn(pictures: list[Picture]) -> list[Picture]:
    """Order pictures so that each hand gives one before any gives its second; the order of hands is drawn."""
    by_hand: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_hand[picture.hand].append(picture)
    if not by_hand:
        return []
    order = sorted(by_hand)
    draw = _generator("hands", pictures[0].dataset, pictures[0].name)
    draw.shuffle(order)
    for hand in order:
        draw.shuffle(by_hand[hand])
    most = max(map(len, by_hand.values()))
    return [by_hand[hand][i] for i in range(most) for hand in order if i < len(by_hand[hand])]
