"""Compare the folder of a data set with its description."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dassl.utils.registry import did_you_mean
from tqdm import tqdm

from .catalog import DESCRIPTIONS
from .config import check_custom_keys, data_root
from .registry import Counts, DescribedDataset, Description, ListedDataset
from .splits import Split, check_split
from .survey import leaked, note_lines, some_of, unusual


class Report(NamedTuple):
    """Findings: rows (item, expected, found) of a table, notes, and problems to solve."""

    name: str
    folder: str
    rows: list[tuple[str, str, str]]
    notes: list[str]
    problems: list[str]


def check(made: type[ListedDataset], cfg: Any, images: int = 500, any_size: bool = False) -> Report:
    """Compare the content of ``cfg.DATASET.ROOT`` with the description of the data set ``made``. Nothing is written.

    ``images`` is the number of images to open, evenly spread over all of them; below 0 opens all. ``any_size`` accepts
    other numbers of classes and images than those of the complete data set.

    Raises:
        ValueError: ``DATASET.ROOT`` is empty, or a key is set that the data set does not read.
        FileNotFoundError: the folder does not exist.
    """
    if issubclass(made, DescribedDataset):
        check_custom_keys(made.__name__, cfg.DATASET)
        return _check_described(made.description, data_root(cfg.DATASET.ROOT), images, any_size)
    report = Report(made.__name__, cfg.DATASET.ROOT, [], [], [])
    try:
        source = made.source(cfg, keep=False)
    except (OSError, ValueError) as error:
        report.problems.append(str(error))
        return report
    report.notes.extend(note_lines(source.left_out, "left out: "))
    if len(names := {row.classname for row in source.split.train}) == 1:
        report.problems.append(f"{names.pop()!r:.100} is the only class; a training needs two (base and new: four)")
    _check_images(report, source.split, source.images, None, images)
    test, training = (
        [path for row in part if os.path.isfile(path := os.path.join(source.images, row.path))]
        for part in (source.split.test, source.split.train + source.split.val)
    )
    known = set(training)
    copies = leaked(training, [path for path in test if path not in known])
    _add_problem(report, "images of the test have the content of one for training or validation", copies, len(test))
    return report


def _check_described(about: Description, root: Path, images: int, any_size: bool) -> Report:
    folder = root / about.folder
    report = Report(about.name, str(folder), [], [], [])
    if not folder.is_dir():
        if about.prepare is not None:
            report.notes.append(f"no folder {folder}; it is drawn at first use")
        else:
            others = set(os.listdir(root)) - {other.folder for other in DESCRIPTIONS}
            report.problems.append(f"no folder {folder}{did_you_mean(about.folder, sorted(others))}")
        return report
    _check_files(report, about, folder)
    try:
        report.notes.extend(filter(None, [about.split_note(folder)]))
        split = check_split(about.load(folder, keep=False), about.name)
    except (OSError, ValueError) as error:
        if not any(str(error) in problem or problem in str(error) for problem in report.problems):
            report.problems.append(str(error))
        return report
    if about.test_only:
        split = Split([], [], split.test)
    counts = None if any_size else about.counts
    _check_images(report, split, folder / about.images, counts, images)
    return report


def _check_files(report: Report, about: Description, folder: Path) -> None:
    split = about.split_file(folder)
    # a split file replaces the annotations
    unneeded = [name.partition("/")[0] for name in about.files] if split else []
    for path, right, advice in about.mistakes:
        if (folder / path).exists() and right not in unneeded and not _is_filled(folder / right, folder / path):
            report.problems.append(f"{folder / path} is misplaced: {advice}")
    for pattern, _ in about.pictures:  # the part before the first * is a folder that must exist
        place = folder / pattern.partition("*")[0].rpartition("/")[0]
        if not place.is_dir():
            report.problems.append(f"no folder {place}")
    for name in about.files if split is None else ():
        if not (folder / name).is_file():
            why = f", and no {about.split} instead of it" if about.split else ""
            report.problems.append(f"annotation file not found: {folder / name}{why}")


def _is_filled(place: Path, ignored: Path) -> bool:
    """Return whether ``place`` is a file, or a folder with visible content other than ``ignored``."""
    if not place.is_dir():
        return place.exists()
    return any(entry != ignored for entry in place.iterdir() if not entry.name.startswith("."))


def _check_images(report: Report, split: Split, images: Path, counts: Counts | None, opened: int) -> None:
    found = Counts(len({row.label for part in split for row in part}), *map(len, split))
    for item, expected, number in zip(Counts._fields, counts or found, found):
        report.rows.append((item, f"{expected:,}" if counts else "", f"{number:,}"))
        if expected != number:
            report.problems.append(f"{item}: {number:,} found, {expected:,} expected")
    paths = [os.path.join(images, row.path) for part in split for row in part]
    bar = tqdm(paths, desc=f"{report.name}: files", unit="file", leave=False, disable=None)
    missing = [path for path in bar if not os.path.isfile(path)]
    _add_problem(report, "images are missing", missing, len(paths))
    shared = {row.path for row in split.train + split.val} & {row.path for row in split.test}
    _add_problem(report, "images of the test are also for training or validation", sorted(shared), len(split.test))
    gone = set(missing)
    present = [path for path in paths if path not in gone]
    number = len(present) if opened < 0 else min(opened, len(present))
    chosen = [present[i * len(present) // number] for i in range(number)]
    bar = tqdm(chosen, desc=f"{report.name}: images", unit="image", leave=False, disable=None)
    unreadable, notes = [], {}
    for path in bar:
        try:
            for note in unusual(path, decode=True):
                notes.setdefault(note, []).append(path)
        except ValueError:
            unreadable.append(path)
    report.notes.extend(note_lines(notes, f"of {len(chosen):,} images opened, "))
    _add_problem(report, "images that were opened cannot be read", unreadable, len(chosen))
    report.rows.append(("images opened", f"{len(paths):,}" if opened < 0 else "", f"{len(chosen):,}"))


def _add_problem(report: Report, problem: str, found: Sequence[str], total: int) -> None:
    if found:
        report.problems.append(f"{len(found):,} of {total:,} {problem}: {some_of(found)}")
