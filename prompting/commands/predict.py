"""Predict the classes of images with a trained run.

examples:
  align-clip predict output/first photo.jpg
  align-clip predict output/first holiday/ --classes "cat,dog,lynx" --top 3 --csv predictions.csv

The exit code is 0, 1 if an image could not be read (it is named and skipped), 2 after another error.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm  # comes with open_clip

from prompting.classifier import Classifier
from prompting.files import check_place, csv_bytes, write_figure, write_file
from prompting.images import find_images, read_image
from prompting.ot.checks import check_count

Row = tuple[Path, list[tuple[str, float]]]
"""An image, and its likeliest classes with their probabilities."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add = parser.add_argument
    add("run_folder", metavar="RUN", help="output folder of a run")
    add("images", metavar="IMAGE|FOLDER", nargs="+", help="image files, or folders that are searched for them")
    add_classes(parser)
    add("--top", type=int, default=5, metavar="K", help="number of classes to show of each image (default: 5)")
    add("--csv", metavar="FILE", help="write a table instead of printing lines")
    add("--json", metavar="FILE", help="write a JSON list instead of printing lines")
    add("--figure", metavar="FILE", help="also draw the first images with their classes as bars; needs matplotlib")
    add("--batch-size", type=int, default=32, metavar="B", help="images that run together (default: 32)")
    add_loading(parser)


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``given_classes``, which several commands have."""
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--classes", metavar="NAMES", help="class names to use instead of the run's, comma-separated")
    names.add_argument("--classes-file", metavar="FILE", help="text file of class names, one a line")


def add_loading(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Add the options of ``Classifier.load``, which several commands have."""
    add = parser.add_argument
    add("--load-epoch", type=int, metavar="E", help="epoch to load (default: the best on validation, else the last)")
    add("--backbone", metavar="CLIP", help="name or file of the CLIP (default: that of the run)")
    if device:
        add("--device", help="torch device: cpu, cuda or cuda:N (default: a GPU if there is one)")


def given_classes(classes: str | None, file: str | None) -> list[str] | None:
    """Return the class names of ``--classes`` or ``--classes-file``; None without either.

    Raises:
        ValueError: the file is not UTF-8 text, or there is one name, which would get a probability of 1.
    """
    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    if file:
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"the file of class names {file} is not UTF-8 text ({error})") from None
        names = [line.strip() for line in lines if line.strip()]
    if names is not None and len(names) == 1:
        raise ValueError(f"{names[0]!r:.100} is the only class name, and would get 100%: give at least two")
    return names


def run(args: argparse.Namespace) -> int:
    """Predict, print or write the result, and return the exit code."""
    check_count("--top", args.top)
    check_count("--batch-size", args.batch_size)
    places = [Path(file) for file in (args.csv, args.json, args.figure) if file]
    if len({place.absolute() for place in places}) < len(places):
        raise ValueError("--csv, --json and --figure must name different files")
    for place in places:
        check_place(place)
    left_out: list[Path] = []
    files, classnames = find_images(args.images, left_out), given_classes(args.classes, args.classes_file)
    loading = {"epoch": args.load_epoch, "backbone": args.backbone, "device": args.device}
    classifier = Classifier.load(args.run_folder, classnames=classnames, **loading)
    if left_out:
        kinds = ", ".join(sorted({path.suffix or path.name for path in left_out}))
        print(f"left out: {len(left_out)} files with other names than images ({kinds:.100})", file=sys.stderr)
    unreadable: list[Path] = []
    found: list[Row] = []
    for row in predict(classifier, files, args.top, args.batch_size, unreadable):
        found.append(row)
        if not (args.csv or args.json):
            named = ", ".join(f"{name} {100 * probability:.1f}%" for name, probability in row[1])
            tqdm.write(f"{row[0]}: {named}")
    if args.figure:
        draw(classifier, found, Path(args.figure))
    if args.csv or args.json:
        if args.csv:
            write_file(Path(args.csv), as_csv(found, min(args.top, len(classifier.classnames))))
        if args.json:
            write_file(Path(args.json), (as_json(found) + "\n").encode("utf-8", "backslashreplace"))
        print(f"{len(found)} images: {' and '.join(filter(None, (args.csv, args.json)))}")
    return exit_code(unreadable, files)


def read_or_skip(path: Path, turn: bool, unreadable: list[Path]) -> Image.Image | None:
    """Return the image (``read_image``); None for an unreadable one, which is named and added to ``unreadable``."""
    try:
        return read_image(path, turn)
    except ValueError as error:
        unreadable.append(path)
        tqdm.write(f"skipped: {error}", file=sys.stderr)
        return None


def exit_code(unreadable: list[Path], files: list[Path]) -> int:
    """Return 1 if there are unreadable images, after printing their number on stderr, else 0."""
    if unreadable:
        print(f"{len(unreadable)} of {len(files)} images could not be read", file=sys.stderr)
    return 1 if unreadable else 0


def predict(
    classifier: Classifier, files: list[Path], top: int, batch_size: int, unreadable: list[Path]
) -> Iterator[Row]:
    """Yield the rows of all readable images; name the others on stderr, and add them to ``unreadable``."""
    with tqdm(total=len(files), unit="image", disable=None if len(files) > 1 else True) as bar:
        for start in range(0, len(files), batch_size):
            batch, images = [], []
            for path in files[start : start + batch_size]:
                if image := read_or_skip(path, classifier.preprocess.turn, unreadable):
                    images.append(image)
                    batch.append(path)
            yield from zip(batch, classifier(images, batch_size).top(top))
            bar.update(len(files[start : start + batch_size]))


def draw(classifier: Classifier, rows: list[Row], file: Path) -> None:
    """Draw the first images with their likeliest classes."""
    from prompting.explain.likeliest_figure import MOST, likeliest_figure
    from prompting.explain.style import drawable_name

    shown = rows[:MOST]
    if not shown:
        raise ValueError(f"no image can be read, so there is nothing to draw to {file}")
    images = [classifier.preprocess.read(path) for path, _ in shown]
    some = f" in {len(shown)} of {len(rows)} images" if len(rows) > len(shown) else ""
    title = f"What {classifier.settings.method} sees{some}"
    parts = 1 if len({path.name for path, _ in shown}) == len(shown) else 2  # 1.jpg of several folders
    names = [drawable_name(path, parts) for path, _ in shown]
    write_figure(likeliest_figure(images, names, [found for _, found in shown], title), file)


def as_csv(rows: list[Row], top: int) -> bytes:
    """Return a table: path, and the ``top`` likeliest classes with their probabilities."""
    head = ["path", *(f"{name}_{i}" for i in range(1, top + 1) for name in ("class", "probability"))]
    cells = ([path, *(cell for name, value in classes for cell in (name, f"{value:.6g}"))] for path, classes in rows)
    return csv_bytes([head, *cells])


def as_json(rows: list[Row]) -> str:
    """Return the rows as a JSON list of {"path": ..., "classes": [{"name": ..., "probability": ...}, ...]}."""
    listing = [
        {"path": str(path), "classes": [{"name": name, "probability": value} for name, value in classes]}
        for path, classes in rows
    ]
    return json.dumps(listing, ensure_ascii=False, indent=1)
