"""What ``python -m datasets`` prints: tables of reports and of splits, and the folder to prepare."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from textwrap import shorten

from tabulate import tabulate

from .check import Report
from .registry import DescribedDataset, Description, ListedDataset
from .splits import Split

WIDTH = 90  # of the first problem in a table of many


def report_text(report: Report) -> str:
    """Return a report as text: a table, remarks, problems."""
    lines = [f"{report.name}  {report.folder}"]
    if report.rows:
        lines.append(tabulate(report.rows, ["", "expected", "found"], disable_numparse=True, stralign="right"))
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join(lines if report.problems else [*lines, "no problem found"])


def summary_text(reports: Sequence[Report]) -> str:
    """Return a table of several reports, a line each."""
    rows = [(r.name, len(r.problems), shorten(r.problems[0], WIDTH) if r.problems else "") for r in reports]
    return tabulate(rows, ["data set", "problems", "the first of them"])


def layout_text(made: type[ListedDataset]) -> str:
    """Return the tree to prepare for a data set."""
    if not issubclass(made, DescribedDataset):
        return f"{made.__name__}: {inspect.getdoc(made)}"
    about = made.description
    tree = tabulate([(f"  {path}", note) for path, note in _entries(about)], tablefmt="plain")
    # a tabulate without borders strips what stands at the left
    lines = [f"{about.name}", f"ROOT/{about.folder}/", *(f"  {line.strip()}" for line in tree.splitlines())]
    if about.card:
        n = about.card.counts
        lines.append(f"{n.classes:,} classes; train {n.train:,}, val {n.val:,}, test {n.test:,} images")
        lines.append(f"from {about.card.source}")
    return "\n".join(lines)


def _entries(about: Description) -> list[tuple[str, str]]:
    card = about.card
    if card is None:
        return [(f"{about.images}/*/*.png", "drawn when it is first used"), (about.split, "drawn with them")]
    entries = list(card.pictures)
    if about.split:
        entries.append(
            (about.split, "CoOp's split; without it one is drawn here, and figures differ from published ones")
        )
    entries += [(path, "not needed beside the split file" if about.split else "needed") for path in card.files]
    return entries


def stats_text(name: str, split: Split, classes: bool = True, note: str = "") -> str:
    """Return the counts of a split: a table of its parts, and one of its classes.

    Args:
        name: the data set's name.
        split: images.
        classes: whether to add the table of classes.
        note: a remark on the split, if any.
    """
    counts = [Counter(item.label for item in part) for part in split]
    rows = []
    for part, of in zip(Split._fields, counts):
        if of:
            mean = sum(of.values()) / len(of)
            rows.append((part, f"{sum(of.values()):,}", len(of), min(of.values()), f"{mean:.1f}", max(of.values())))
    text = f"{name}\n" + tabulate(rows, ["split", "images", "classes", "fewest a class", "mean", "most"])
    text += f"\nnote: {note}" if note else ""
    if classes:
        names = {item.label: item.classname for part in reversed(split) for item in part}
        lines = [(label, names[label], *(of[label] for of in counts)) for label in sorted(names)]
        text += "\n\n" + tabulate(lines, ["label", "class", *Split._fields])
    return text
