"""python -m datasets.mini --root DATA [--sets mini_source ... | all]: draw mini sets."""

from __future__ import annotations

import argparse
import difflib
import logging
from pathlib import Path

from .suite import SUITE, ensure


def main() -> None:
    """Draw the sets that the command line names, and say which were there already."""
    parser = argparse.ArgumentParser(prog="python -m datasets.mini", description="Draw the mini data sets.")
    parser.add_argument("--root", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--sets", nargs="+", default=["all"], metavar="SET", help=f"all, or of: {', '.join(SUITE)}")
    args = parser.parse_args()
    for name in args.sets:
        if name not in SUITE and name != "all":
            near = difflib.get_close_matches(name, SUITE, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            parser.error(f"unknown set {name!r}; allowed: all, {', '.join(SUITE)}{hint}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in SUITE if "all" in args.sets else args.sets:
        try:
            if not ensure(SUITE[name], args.root):
                logging.info("%s is there already: %s", SUITE[name].name, args.root / name)
        except FileExistsError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
