"""Write the mini data sets, or draw a sheet: a few test images of each, with the names of the sets.

python -m datasets.mini --root data --sets mini_source mini_digits
python -m datasets.mini --sheet docs/figures/mini_suite.png
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dassl.utils.command import Parser, command
from dassl.utils.registry import check_choice
from PIL import Image, ImageDraw

from .files import ensure
from .pack import SIDE
from .suite import image, read_suite


def sheet(path: Path, columns: int = 16, margin: int = 110) -> None:
    """Write a picture with one row of test images per set, of evenly spread classes, after the set's name."""
    suite = read_suite()
    page = Image.new("RGB", (margin + columns * SIDE, len(suite) * SIDE), "white")
    pen = ImageDraw.Draw(page)
    for row, dataset in enumerate(suite.values()):
        pen.text((4, row * SIDE + SIDE // 2 - 6), dataset.name, fill="black")
        for column in range(columns):
            label = column * len(dataset.classes()) // columns
            page.paste(Image.fromarray(image(dataset, "test", label, 0)), (margin + column * SIDE, row * SIDE))
    page.save(path)


@command("python -m datasets.mini")
def main(words: Sequence[str]) -> None:
    """Write the sets that the command line names, and say which were there already."""
    suite = read_suite()
    parser = Parser(prog="python -m datasets.mini", doc=__doc__)
    parser.add_argument("--root", type=Path, help="folder of data sets")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw a sheet of examples instead")
    parser.add_argument("--sets", nargs="+", default=["all"], metavar="SET", help=f"all, or of: {', '.join(suite)}")
    args = parser.parse_args(words)
    if args.sheet:
        sheet(args.sheet)
        return
    if args.root is None:
        parser.error("say where to write: --root FOLDER")
    for name in args.sets:
        check_choice("--sets", name, ["all", *suite])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in suite if "all" in args.sets else args.sets:
        if not ensure(suite[name], args.root):
            logging.info("%s is there already: %s", suite[name].name, args.root / name)


if __name__ == "__main__":
    sys.exit(main())
