"""The command ``explain``: draws what a run has learned."""

import argparse
import csv
import io
from pathlib import Path

from prompting.classifier import Classifier
from prompting.files import write_figure, write_file
from prompting.run_folder import read_run

EXAMPLES = """examples:
  align-clip explain output/first plan photos/cat.jpg --top 2
  align-clip explain output/first curves --output-dir pictures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``explain`` to a parser."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="output folder of a run")
    what = parser.add_subparsers(dest="what", required=True, metavar="plan | words | embed | curves")

    def add_parser(name: str, about: str) -> argparse.ArgumentParser:
        form = argparse.RawDescriptionHelpFormatter
        return what.add_parser(name, help=about, description=about, epilog=EXAMPLES, formatter_class=form)

    plan = add_parser("plan", "transport plans of images: which prompts match, and where tokens lie")
    plan.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    plan.add_argument("--top", type=int, default=3, help="number of likeliest classes to draw (default: 3)")
    plan.add_argument("--pairs", type=int, default=1, help="number of heaviest pairs of prompts to draw (default: 1)")
    plan.add_argument("--classes", default="", metavar="A,B,C", help="class names in place of the run's")
    words = add_parser("words", "nearest words of the vocabulary to each learned vector")
    words.add_argument("--top", type=int, default=5, help="words for each vector (default: 5)")
    embed = add_parser("embed", "t-SNE of image features before and after tuning")
    embed.add_argument("--root", type=Path, help="folder of the data sets (default: the run's)")
    embed.add_argument("--most", type=int, default=1000, help="largest number of images (default: 1000)")
    add_parser("curves", "loss, accuracy, learning rate and transport over training")
    for one in what.choices.values():
        one.add_argument("--output-dir", type=Path, help="folder of the pictures (default: RUN/explain)")
        one.add_argument("--backbone", default="", help="name or path of the CLIP (default: the run's)")


def run(args: argparse.Namespace) -> int:
    """Draw the pictures that the arguments ask for, print where they are, and return the exit code."""
    folder = args.output_dir or args.folder / "explain"
    read_run(args.folder)  # before a folder is made
    draw = {"plan": _plan, "words": _words, "embed": _embed, "curves": _curves}[args.what]
    for path in draw(args, folder):
        print(path)
    return 0


def _load(args: argparse.Namespace) -> Classifier:
    names = [name.strip() for name in getattr(args, "classes", "").split(",") if name.strip()]
    source, classes = args.backbone or None, names or None
    return Classifier.load(args.folder, device="cpu", precision="fp32", backbone=source, classnames=classes)


def _plan(args: argparse.Namespace, folder: Path) -> list[Path]:
    from prompting.explain.plan_figure import plan_figure
    from prompting.explain.plans import transport_plans

    if args.pairs < 1:
        raise ValueError(f"--pairs is {args.pairs}; allowed: 1 or more")
    trained = _load(args)
    written: list[Path] = []
    for path in args.images:
        cropped = trained.preprocess.read(path)
        (plan,) = transport_plans(trained.model, trained.preprocess(cropped)[None], trained.classnames, top=args.top)
        first = plan.classes[0]
        shown = path.name.encode("utf-8", "backslashreplace").decode()  # a name may not be UTF-8
        title = f"{trained.settings.method} sees {first.name} ({first.probability:.0%}) in {shown}"
        written.append(_free(folder / f"plan-{path.stem}.png", written))
        write_figure(plan_figure(cropped, plan, pairs=args.pairs, title=title), written[-1])
    return written


def _free(path: Path, taken: list[Path]) -> Path:
    """Return the path, with a number if it is among those of this call: images of two folders may share a name."""
    number, candidate = 1, path
    while candidate in taken:
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def _words(args: argparse.Namespace, folder: Path) -> list[Path]:
    from prompting.explain.words import nearest_words, words_figure

    trained = _load(args)
    found = nearest_words(trained.model, args.top, trained.classnames)
    for vector in found:
        near = "  ".join(f"{word} {distance:.3f}" for word, distance in zip(vector.words, vector.distances))
        print(f"{vector.name:<24} {near}")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["vector", "rank", "word", "distance"])
    for vector in found:
        pairs = zip(vector.words, vector.distances)
        writer.writerows([vector.name, i + 1, word, f"{d:.6f}"] for i, (word, d) in enumerate(pairs))
    write_file(folder / "words.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    title = f"Words nearest to the learned vectors of {trained.settings.method}"
    write_figure(words_figure(found, title), folder / "words.png")
    return [folder / "words.csv", folder / "words.png"]


def _embed(args: argparse.Namespace, folder: Path) -> list[Path]:
    from prompting.explain.embedding import embedding_figure

    trained = _load(args)
    root = args.root or read_run(args.folder)["config"]["DATASET"]["ROOT"]
    figure = embedding_figure(trained, args.folder, Path(root), most=args.most)
    write_figure(figure, folder / "embed.png")
    return [folder / "embed.png"]


def _curves(args: argparse.Namespace, folder: Path) -> list[Path]:
    from prompting.explain.curves import curves_figure, read_curves

    curves = read_curves(args.folder)
    method = read_run(args.folder)["config"]["TRAINER"]["NAME"]
    write_figure(curves_figure(curves, f"Training of {method}"), folder / "curves.png")
    return [folder / "curves.png"]
