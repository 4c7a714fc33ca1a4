"""Comparing a data set's folder with what is expected of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dassl.utils import read_image
from tqdm import tqdm

from .catalog import DESCRIPTIONS
from .files import did_you_mean
from .keys import check_keys, data_root
from .partition import Listing
from .registry import Counts, DescribedDataset, Description, ListedDataset, Source
from .splits import checked_listing

NAMED = 3  # how many of many are named


class Report(NamedTuple):
    """What was found: rows (what, expected, found) of a table, remarks, and problems to solve."""

    name: str
    folder: str
    rows: list[tuple[str, str, str]]
    notes: list[str]
    problems: list[str]


def check(made: type[ListedDataset], cfg: Any, images: int = 500, any_size: bool = False) -> Report:
    """Compare what ``cfg.DATASET.ROOT`` holds with what a data set needs. Nothing is written to it.

    Args:
        made: the data set's class.
        cfg: config.
        images: how many images to open, spread over all of them; below 0 opens all.
        any_size: whether other numbers of classes and images than the complete set's are no problem.

    Raises:
        ValueError: if ``DATASET.ROOT`` is empty, or a key is set that the data set does not read.
        FileNotFoundError: if there is no such folder.
    """
    if issubclass(made, DescribedDataset):
        check_keys(made.__name__, cfg.DATASET)
        return _check_described(made.description, data_root(cfg.DATASET.ROOT), images, any_size)
    report = Report(made.__name__, cfg.DATASET.ROOT, [], [], [])
    try:
        source = made.source(cfg, keep=False)
    except (OSError, ValueError) as error:
        report.problems.append(str(error))
        return report
    _check_listing(report, _listing(source), source.images, None, images)
    return report


def _check_described(about: Description, root: Path, images: int, any_size: bool) -> Report:
    folder = root / about.folder
    report = Report(about.name, str(folder), [], [], [])
    if not folder.is_dir():
        made_here = about.prepare is not None
        others = set(os.listdir(root)) - {other.folder for other in DESCRIPTIONS}
        hint = "; it is drawn when it is first used" if made_here else did_you_mean(about.folder, sorted(others))
        (report.notes if made_here else report.problems).append(f"no folder {folder}{hint}")
        return report
    _check_files(report, about, folder)
    try:
        report.notes.extend(filter(None, [about.split_note(folder)]))
        listing = about.listing(folder, keep=False)
    except (OSError, ValueError) as error:
        if not any(str(error) in problem or problem in str(error) for problem in report.problems):
            report.problems.append(str(error))
        return report
    if about.test_only:
        listing = Listing([], [], listing.test)
    counts = about.card.counts if about.card and not any_size else None
    _check_listing(report, listing, folder / about.images, counts, images)
    return report


def _check_files(report: Report, about: Description, folder: Path) -> None:
    card, split = about.card, about.split_file(folder)
    # beside the split file nobody asks for annotations
    unneeded = [name.partition("/")[0] for name in card.files] if card and split else []
    for path, right, advice in card.mistakes if card else ():
        if (folder / path).exists() and right not in unneeded and not _is_filled(folder / right, folder / path):
            report.problems.append(f"{folder / path} is misplaced: {advice}")
    # the fixed part of each pattern: a folder that has to be there
    for pattern, _ in card.pictures if card else ():
        place = folder / pattern.partition("*")[0].rpartition("/")[0]
        if not place.is_dir():
            report.problems.append(f"no folder {place}")
    if split is not None:
        return
    for name in card.files if card else ():
        if not (folder / name).is_file():
            why = f", and no {about.split} instead of it" if about.split else ""
            report.problems.append(f"annotation file not found: {folder / name}{why}")


def _is_filled(place: Path, but: Path) -> bool:
    """Say whether a file is there, or a folder that holds more than ``but``."""
    if not place.is_dir():
        return place.exists()
    return any(entry != but for entry in place.iterdir() if not entry.name.startswith("."))


def _check_listing(report: Report, listing: Listing, images: Path, counts: Counts | None, opened: int) -> None:
    try:
        checked_listing(listing, report.name)
    except ValueError as error:
        report.problems.append(str(error))
        return
    found = Counts(len({row[1] for part in listing for row in part}), *map(len, listing))
    for what, expected, number in zip(Counts._fields, counts or found, found):
        report.rows.append((what, f"{expected:,}" if counts else "", f"{number:,}"))
        if expected != number:
            report.problems.append(f"{what}: {number:,} found, {expected:,} expected")
    paths = [os.path.join(images, row[0]) for part in listing for row in part]
    bar = tqdm(paths, desc=f"{report.name}: files", unit="file", leave=False, disable=None)
    _name(report, "images are missing", [path for path in bar if not os.path.isfile(path)], len(paths))
    shared = {row[0] for row in listing.train + listing.val} & {row[0] for row in listing.test}
    _name(report, "images of the test are also for training or validation", sorted(shared), len(listing.test))
    chosen = spread([path for path in paths if os.path.isfile(path)], opened)
    bar = tqdm(chosen, desc=f"{report.name}: images", unit="image", leave=False, disable=None)
    _name(report, "images that were opened cannot be read", [path for path in bar if not _readable(path)], len(chosen))
    report.rows.append(("images opened", f"{len(paths):,}" if opened < 0 else "", f"{len(chosen):,}"))


def _name(report: Report, what: str, found: Sequence[str], total: int) -> None:
    if found:
        more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
        report.problems.append(f"{len(found):,} of {total:,} {what}: {', '.join(found[:NAMED])}{more}")


def spread(paths: Sequence[str], count: int) -> Sequence[str]:
    """Return ``count`` of the paths at equal distances, or all of them if ``count`` is negative or too many."""
    if count < 0 or count >= len(paths):
        return paths
    return [paths[i * len(paths) // count] for i in range(count)]


def _readable(path: str) -> bool:
    try:
        read_image(path)
    except Exception:  # whatever a decoder says of a damaged file
        return False
    return True


def _listing(source: Source) -> Listing:
    def rows(items: Iterable[Any]) -> list:
        return [(os.path.relpath(item.impath, source.images), item.label, item.classname) for item in items]

    return Listing(*map(rows, source.split))
