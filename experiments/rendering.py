"""A table of results as text: terminal, Markdown or LaTeX."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from prompting.files import write_file

FORMATS = {"terminal": "simple", "markdown": "github", "latex": "latex_raw", "csv": ""}
MARKS = {  # best and second best
    "terminal": ("{}*", "{}+"),
    "markdown": ("**{}**", "<u>{}</u>"),
    "latex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
}


def write_tables(page: Path, table: Callable[[str], str]) -> None:
    """Write tables into a Markdown page: ``table(NAME)`` between ``<!-- NAME -->`` and ``<!-- end -->``.

    If ``table`` returns "", the text between the markers stays.
    """

    def fill(found: re.Match[str]) -> str:
        text = table(found[2])
        return f"{found[1]}\n{text}\n\n{found[3]}" if text else found[0]

    pattern = re.compile(r"(<!-- ([\w: ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    write_file(page, pattern.sub(fill, page.read_text(encoding="utf-8")).encode())


def markdown(table: pd.DataFrame, first: str, floatfmt: str | tuple[str, ...] = ".2f") -> str:
    """Return a table as Markdown, with its index under the header ``first`` and "-" for missing numbers."""
    cells = table.astype(object).where(table.notna(), None)
    return tabulate(cells, [first, *table.columns], "github", floatfmt=floatfmt, missingval="-")


def render(cells: pd.DataFrame, form: str, published: bool) -> str:
    """Return one table as text; published figures are in separate columns, or in rows if the table is wide."""
    title, columns = cells["table"].iloc[0], list(cells["column"].unique())
    wide, dash, sign = len(columns) > 3, "--" if form == "latex" else "-", r"$\pm$" if form == "latex" else "±"
    kinds = ["", "published", "difference"] if published else [""]
    shown = cells["mean"].map("{:.2f}".format).astype(float).groupby(cells["column"])
    cells = cells.assign(rank=shown.rank("dense", ascending=False).where(shown.transform("count") > 1))

    def figure(cell: Any, kind: str) -> str:
        value = getattr(cell, kind or "mean")
        if pd.isna(value) or kind:
            return dash if pd.isna(value) else f"{value:{'+' if kind == 'difference' else ''}.2f}"
        text = f"{value:.2f}"
        if cell.rank <= 2:  # best or second best of several methods
            text = MARKS[form][int(cell.rank) - 1].format(text)
        return text if pd.isna(cell.std) else f"{text} {sign} {cell.std:.2f}"

    lines = [["method", *(kind or column for column in columns for kind in (kinds[:1] if wide else kinds))]]
    for method, group in cells.groupby("method", sort=False):
        if wide:
            lines += [[f"({k})" if k else method, *(figure(cell, k) for cell in group.itertuples())] for k in kinds]
        else:
            lines.append([method, *(figure(cell, kind) for cell in group.itertuples() for kind in kinds)])
    if form == "latex":
        lines = [[text.replace("_", r"\_") for text in line] for line in lines]
    align = ("left", *["right"] * (len(lines[0]) - 1))
    body = tabulate(lines[1:], headers=lines[0], tablefmt=FORMATS[form], colalign=align, disable_numparse=True)
    return {"markdown": f"### {title}\n\n", "latex": f"% {title}\n"}.get(form, f"{title}\n\n") + body
