"""The committed results: one CSV file per protocol in results/, and the tables of docs/results.md made from them.

python -m experiments.results                         # write the tables of docs/results.md again
python -m experiments.results --add output base2new   # first add the runs below a folder to results/base2new.csv
python -m experiments.results --add output base2new --seeds 1 --methods ALIGN MMP   # only some of them
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from dassl.utils.command import Parser
from filelock import FileLock

from experiments import compare, row
from experiments.collect import read, read_table
from experiments.protocols import PROTOCOLS
from experiments.rendering import markdown, write_tables
from experiments.report.reading import with_answers
from experiments.runs import PROJECT, command
from experiments.tables import KEYS, TableBuilder, nothing_found
from prompting.files import write_file
from prompting.ot.checks import check_choice

PAGE, FOLDER = PROJECT / "docs" / "results.md", PROJECT / "results"
MEASURED = ["accuracy", "macro_f1", "seconds", "ms_per_image", "learned_parameters", "backbone", "config"]
COLUMNS = [*KEYS, *MEASURED, "commit", "config_hash", "note", "images", "correct"]


def add(output: Path, protocol: str, file: Path, methods: Sequence[str] = (), seeds: Sequence[int] = ()) -> int:
    """Add the results below ``output`` to a CSV file and return their number; they replace runs with the same ``KEYS``.

    ``protocol`` is one of ``PROTOCOLS``, or "compare", which takes base-to-new on its data set. Empty ``methods`` and
    ``seeds`` take all. The column ``commit`` is that of the checkout at this moment; for ``images`` and ``correct`` see
    ``experiments.report.reading.with_answers``.

    Raises:
        ValueError: two runs below ``output`` have the same keys, none is of the protocol, methods and seeds, or a
            method is unknown.
    """
    check_choice("protocol", protocol, [*PROTOCOLS, "compare"])
    table = "base2new" if protocol == "compare" else protocol
    found, notes = read(output, table)
    for note in notes:
        print(note, file=sys.stderr)
    kept = TableBuilder(table, found, methods=methods, seeds=seeds).results  # refuses two runs with the same keys
    kept = kept[kept["dataset"] == compare.DATASET] if protocol == "compare" else kept
    if kept.empty:
        raise nothing_found(table, output, found)
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True)
    found = with_answers(kept).assign(commit=head.stdout.strip())
    rows = pd.concat([read_table(file), found]) if file.is_file() else found
    rows = rows.drop_duplicates(KEYS, keep="last").reindex(columns=COLUMNS).sort_values(KEYS)
    write_file(file, rows.astype({"learned_parameters": "Int64"}).to_csv(index=False).encode())
    return len(found)


def tables(marker: str) -> str:
    """Return the tables of one CSV file as Markdown, for the marker "results: NAME"; "" if there is no such file.

    "results: mini" is the averages of all methods on the mini suite, "results: significance_..." the intervals of H.
    """
    name = marker.removeprefix("results: ")
    if name == "mini":
        return row.render(row.gather(FOLDER / "none", ""))
    if not (FOLDER / f"{name}.csv").is_file():
        return ""
    if name.startswith("significance"):  # only its last column: H, or the accuracy
        table = pd.read_csv(FOLDER / f"{name}.csv", index_col=["column", "method"])
        return markdown(table.loc[table.index[-1][0]], "method", ("", *[".2f"] * 6, ".4f", ".4f"))
    results, _ = read(FOLDER / f"{name}.csv", name)
    if name == "compare":
        return compare.render(results)
    return TableBuilder(name, results).report("markdown").replace("### ", "#### ")


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="results", doc=__doc__)
    parser.add_argument("--add", nargs=2, metavar=("FOLDER", "PROTOCOL"), help="a protocol, or compare")
    parser.add_argument("--methods", nargs="+", default=(), help="registry names of the methods to add (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=(), help="seeds to add (default: all)")
    args = parser.parse_args(argv)
    with FileLock(FOLDER / ".lock"):  # of two processes, the second adds to what the first has written
        if args.add:
            output, protocol = args.add
            file = FOLDER / f"{protocol}.csv"
            number = add(Path(output), protocol, file, args.methods, args.seeds)
            print(f"{file.relative_to(PROJECT)}: {number} runs added")
        write_tables(PAGE, tables)


if __name__ == "__main__":
    sys.exit(main())
