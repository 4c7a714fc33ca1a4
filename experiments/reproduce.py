"""Execute the missing runs of a table, then print and write the table.

  DATA=/path/to/data scripts/reproduce.sh base2new ALIGN MaPLe CoOp
  DATASETS=mini scripts/reproduce.sh xd all
TABLE (base2new, xd, dg, fewshot) METHOD ... (or all). DATA, OUTPUT (folders), DATASETS (names, all or mini; default
all), SEEDS (default "1 2 3"), SWEEP (more flags of sweep, such as "--executor slurm --slurm partition=gpu").
The table goes to the terminal and to OUTPUT/<table>.md and .csv, the few-shot picture to OUTPUT/fewshot.png.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from experiments import sweep, tables


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, end="", file=sys.stderr)
        return 2
    protocol, *methods = sys.argv[1:]
    output, root = os.environ.get("OUTPUT") or "output", os.environ.get("DATA") or "data"
    datasets = (os.environ.get("DATASETS") or "all").split()
    seeds = (os.environ.get("SEEDS") or "1 2 3").split()
    grid = ["--methods", *methods, "--datasets", *datasets, "--seeds", *seeds]
    more = os.environ.get("SWEEP", "").split()
    status = sweep.main(["--protocol", protocol, *grid, "--root", root, "--output", output, *more])
    if status == 130:  # interrupted: a table would lack the rest
        return status
    table, target = [output, "--table", protocol, *grid], Path(output, protocol)
    picture = ["--plot", f"{target}.png"] if protocol == "fewshot" else []
    if failed := tables.main([*table, *picture]):
        return failed
    for suffix, form in ((".md", "markdown"), (".csv", "csv")):
        with open(target.with_suffix(suffix), "w", encoding="utf-8") as file, redirect_stdout(file):
            with open(os.devnull, "w") as quiet, redirect_stderr(quiet):
                tables.main([*table, "--format", form])
    print(f"Written: {target}.md, {target}.csv{f', {target}.png' if picture else ''}")
    return status


if __name__ == "__main__":
    sys.exit(main())
