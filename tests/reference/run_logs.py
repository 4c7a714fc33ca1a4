"""Log lines of a run, and the data that the runs of ``tests/golden/runs`` were made on."""

import re
from pathlib import Path

from tests.golden import recipe

RUNS = Path(__file__).resolve().parent.parent / "golden" / "runs"


def fixed_lines(text: str, *left_out: str) -> list[str]:
    """The lines that are the same everywhere: without times, remaining time and the meters named."""
    lines = [line for line in text.splitlines() if line.startswith(("epoch [", "* "))]
    cut = "|".join(("time", "data", *left_out))
    return [re.sub(rf" ({cut}) \S+ \(\S+\)| eta .*", "", line) for line in lines]


def golden_root(tmp_path_factory) -> str:
    """A folder with the data set of those runs."""
    folder = tmp_path_factory.mktemp("golden-data")
    recipe.eurosat_tree(str(folder), 1)
    return str(folder)
