"""Rows of a CSV file of images: path, class name and, optionally, split."""

import csv
import io
from pathlib import Path

from .files import read_text

HEADER = ("path", "classname", "split")
# names of the columns that other programs write
COLUMNS = {
    **dict.fromkeys(
        "path file filename file_name filepath file_path image img image_path image_name impath".split(), 0
    ),
    **dict.fromkeys("classname class class_name label category name target".split(), 1),
    **dict.fromkeys("split set subset part partition".split(), 2),
}


def read_rows(path: Path) -> tuple[list[tuple[int, list[str]]], bool]:
    """Return (line number, cells) of the lines of a CSV file, and whether it has a header line.

    With a header, the cells are path, class name and, if there is such a column, split; without, those of the line.

    Raises:
        ValueError: the file is not CSV, has no rows, or a line has another number of cells than the header.
    """
    lines = _read_lines(path)
    columns = _header(lines[0][1], path) if lines else None
    if columns is not None:
        width, lines = len(lines[0][1]), lines[1:]
        for number, line in lines:
            if len(line) != width:
                raise ValueError(f"{path}, line {number}: {len(line)} columns, but the header has {width}")
        lines = [(number, [line[column] for column in columns]) for number, line in lines]
    if not lines:
        raise ValueError(f"{path} has no rows; they should be {','.join(HEADER[:2])}[,{HEADER[2]}]")
    return lines, columns is not None


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line number, stripped cells) of the lines of a CSV file that are not empty."""
    reader = csv.reader(io.StringIO(read_text(path, "CSV file"), newline=""), strict=True)
    try:
        return [(reader.line_num, [cell.strip() for cell in line]) for line in reader if any(line)]
    except csv.Error as error:  # such as a quotation mark that is not closed
        raise ValueError(f"{path}, line {reader.line_num}: this is not CSV ({error})") from None


def _header(first: list[str], path: Path) -> list[int] | None:
    """Return the columns of path, class name and, if there is one, split, of a header line; None for other lines."""
    roles = [COLUMNS.get(word.lower()) for word in first]
    if not {0, 1} <= set(roles):
        return None
    twice = next((role for role in roles if role is not None and roles.count(role) > 1), None)
    if twice is not None:
        words = " and ".join(repr(word) for word, role in zip(first, roles) if role == twice)
        raise ValueError(f"{path}: its header names {words}, which mean the same; keep one, or call it {HEADER}")
    return [roles.index(role) for role in range(len(HEADER)) if role in roles]
