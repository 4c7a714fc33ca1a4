"""python -m datasets.mini --root DATA [--sets mini_source ... | all]: draw mini sets.

python -m datasets.mini --sheet FILE.png: draw a few pictures of each, with the names of the sets.
"""

import difflib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dassl.utils.command import Parser, command
from PIL import Image, ImageDraw

from .draw import SIZE
from .suite import SUITE, ensure, picture


def sheet(path: Path, columns: int = 12, margin: int = 100) -> None:
    """Write one row of test pictures a set, classes spread evenly, beside the names of the sets."""
    image = Image.new("RGB", (margin + columns * SIZE, len(SUITE) * SIZE), "white")
    pen = ImageDraw.Draw(image)
    for row, mini in enumerate(SUITE.values()):
        pen.text((4, row * SIZE + SIZE // 2 - 6), mini.name, fill="black")
        for column in range(columns):
            label = column * len(mini.classes) // columns
            image.paste(picture(mini, "test", label, 0), (margin + column * SIZE, row * SIZE))
    image.save(path)


@command("python -m datasets.mini")
def main(words: Sequence[str]) -> None:
    """Draw the sets that the command line names, and say which were there already."""
    parser = Parser(prog="python -m datasets.mini", description="Draw the mini data sets.")
    parser.add_argument("--root", type=Path, help="folder of data sets")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a sheet of examples instead")
    parser.add_argument("--sets", nargs="+", default=["all"], metavar="SET", help=f"all, or of: {', '.join(SUITE)}")
    args = parser.parse_args(words)
    if args.sheet:
        sheet(args.sheet)
        return
    if args.root is None:
        parser.error("say where to draw: --root FOLDER")
    for name in args.sets:
        if name not in SUITE and name != "all":
            near = difflib.get_close_matches(name, SUITE, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            parser.error(f"unknown set {name!r}; allowed: all, {', '.join(SUITE)}{hint}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in SUITE if "all" in args.sets else args.sets:
        if not ensure(SUITE[name], args.root):
            logging.info("%s is there already: %s", SUITE[name].name, args.root / name)


if __name__ == "__main__":
    sys.exit(main())
