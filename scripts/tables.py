"""The paper's tables from what runs left, beside the published figures.

    python scripts/tables.py output --table base2new [--format terminal|markdown|latex|csv]
    python scripts/tables.py output --table fewshot --plot curves.png

OUTPUT is a folder of our runs (``results.json``) or of logs that CoOp, MaPLe, PLOT and others left. Figures are means
over seeds, with the (population) standard deviation.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts.arrange import PAPER, Cell, Maker, Published, Table, by_shots, missing  # noqa: E402
from scripts.collect import collect  # noqa: E402
from scripts.curves import draw  # noqa: E402
from scripts.protocols import PROTOCOLS, expand  # noqa: E402
from scripts.runs import in_one_line  # noqa: E402

FORMATS = {"terminal": "simple", "markdown": "github", "latex": "latex_raw", "csv": ""}
# Best and second best, by format.
MARKS = {
    "terminal": ("{}*", "{}+"),
    "markdown": ("**{}**", "<u>{}</u>"),
    "latex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
}


# ---------------------------------------------------------------------------------------------------------------------
# Printing
# ---------------------------------------------------------------------------------------------------------------------
def marked(table: Table, column: str, form: str) -> dict[str, str]:
    """Return method -> "mean ± std", with the best and the second best of the column marked."""
    values = {method: cells[column] for method, cells in table.rows.items() if column in cells}
    ranks = sorted({round(cell.mean, 2) for cell in values.values()}, reverse=True)
    plus = r" $\pm$ " if form == "latex" else " ± "
    texts = {}
    for method, cell in values.items():
        text = f"{cell.mean:.2f}"
        place = ranks.index(round(cell.mean, 2))
        if len(values) > 1 and place < 2:
            text = MARKS[form][place].format(text)
        texts[method] = text + (f"{plus}{cell.std:.2f}" if cell.std is not None else "")
    return texts


def has_published(tables: Sequence[Table]) -> bool:
    """Say whether the tables are of data sets with published figures: any of the paper's."""
    return any(word in PAPER.datasets(p) for t in tables for word in (t.title, *t.columns) for p in PROTOCOLS)


def rendered(table: Table, form: str, published: bool) -> str:
    """Return one table as text; published figures stand in columns of their own, in wide tables in lines."""
    dash = "--" if form == "latex" else "-"
    figures = {column: marked(table, column, form) for column in table.columns}

    def beside(cell: Cell | None) -> tuple[str, str]:
        if cell is None or cell.published is None:
            return (f"{cell.published:.2f}" if cell and cell.published is not None else dash), dash
        return f"{cell.published:.2f}", f"{cell.mean - cell.published:+.2f}"

    rows, headers = [], ["method"]
    wide = len(table.columns) > 3
    for column in table.columns:
        headers += [column, "published", "difference"] if published and not wide else [column]
    for method, cells in table.rows.items():
        row = [method]
        for column in table.columns:
            row.append(figures[column].get(method, dash))
            row += beside(cells.get(column)) if published and not wide else []
        rows.append(row)
        if published and wide:
            for i, what in enumerate(("published", "difference")):
                rows.append([f"({what})", *(beside(cells.get(column))[i] for column in table.columns)])
    if form == "latex":
        rows = [[cell.replace("_", r"\_") for cell in row] for row in rows]
        headers = [head.replace("_", r"\_") for head in headers]
    align = ("left", *["right"] * (len(headers) - 1))
    body = tabulate(rows, headers=headers, tablefmt=FORMATS[form], colalign=align, disable_numparse=True)
    head = {"markdown": f"### {table.title}", "latex": f"% {table.title}"}.get(form, table.title)
    return f"{head}\n\n{body}" if form != "latex" else f"{head}\n{body}"


def as_csv(tables: Sequence[Table]) -> str:
    """Return all cells as lines, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "method", "column", "mean", "std", "seeds", "published", "difference", "source"])
    for table in tables:
        for method, cells in table.rows.items():
            for column in table.columns:
                cell = cells.get(column)
                if cell is None:
                    writer.writerow([table.title, method, column, *[""] * 6])
                    continue
                known = cell.published is not None
                beside = [cell.published, cell.mean - (cell.published or 0), cell.source] if known else ["", "", ""]
                seeds = " ".join(map(str, cell.seeds))
                writer.writerow([table.title, method, column, cell.mean, cell.std, seeds, *beside])
    return text.getvalue()


def footer(tables: Sequence[Table], form: str, lacking: Sequence[str], notes: Sequence[str]) -> str:
    """Return what stands below the tables: marks, sources, missing runs, folders that gave nothing."""
    cells = [cell for table in tables for row in table.rows.values() for cell in row.values()]
    marks = {"terminal": " * best, + second best.", "markdown": " Bold: best; underlined: second best."}.get(form, "")
    lines = [f"Accuracy in percent; mean ± standard deviation over seeds.{marks}"]
    sources = sorted({cell.source for cell in cells if cell.source})
    lines += [f"Published: {'; '.join(sources)}."] if sources else []
    lines += [f"Missing: {line}" for line in lacking]
    lines += [f"Nothing found in {note}" for note in notes]
    start = {"latex": "% ", "markdown": "- "}.get(form, "")
    return "\n".join(start + line for line in lines)


def places(output: Path, table: str) -> list[Path]:
    """Return the folders to read: those of the protocol under ``output`` if there are any, else all of it."""
    names = {"xd": ("xd",), "dg": ("xd/train", "dg")}.get(table, (table,))
    own = [output / name for name in names if (output / name).is_dir()]
    return own or [output]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("output", type=Path, help="folder of runs, ours or logs of others")
    add("--table", choices=PROTOCOLS, required=True)
    add("--format", choices=FORMATS, default="terminal")
    add("--datasets", nargs="+", default=[], help="names, all or mini; default: what was found")
    add("--methods", nargs="+", default=["all"], help="methods that should be there; default: all that were found")
    add("--seeds", type=int, nargs="+", help="only these seeds, which should be there; default: those found")
    add("--shots", type=int, nargs="+", default=[], help="of fewshot, that should be there; default: those found")
    add(
        "--configs", nargs="+", default=[], help="only runs with these YAML files (stems) or CoOp's folders of settings"
    )
    add("--plot", type=Path, help="draw the few-shot curves into this file")
    args = parser.parse_args()
    return in_one_line("tables", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for."""
    if args.plot and args.table != "fewshot":
        raise ValueError(f"--plot draws few-shot curves; the table asked for is {args.table}")
    found, notes, wanted = [], [], set(args.configs)
    for place in places(args.output, args.table):
        some, remarks = collect(place)
        some = [one for one in some if not args.seeds or one.seed in args.seeds]
        found += [one for one in some if not wanted or wanted & {one.config, *one.config.split("/")}]
        notes += remarks
    datasets = expand(args.table, args.datasets) if args.datasets else []
    methods = [name for name in args.methods if name != "all"]
    maker = Maker(args.table, found, datasets, Published(), methods, args.shots)
    tables = maker.make()
    if not any(cells for table in tables for cells in table.rows.values()):
        reasons = "".join(f"\n  {note}" for note in notes)
        raise ValueError(f"no result for {args.table} in {args.output}{reasons}")
    if args.plot:
        draw(maker, args.plot)
    seeds = args.seeds or sorted({seed for runs in maker.results.runs.values() for seed in runs})
    lacking = missing(tables, seeds)
    if args.format == "csv":
        print(as_csv(tables), end="")
        for line in (*lacking, *notes):
            print(f"tables: missing: {line}", file=sys.stderr)
        return 0
    if args.table == "fewshot" and len(maker.datasets) == 1:
        tables = [by_shots(tables)]
    show = has_published(tables)
    print("\n\n".join(rendered(table, args.format, show) for table in tables))
    print(f"\n{footer(tables, args.format, lacking, notes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
