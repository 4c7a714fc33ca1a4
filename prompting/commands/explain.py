"""Draw what a trained run has learned: transport plans, words, embeddings, training curves.

examples:
  align-clip explain output/first plan photos/cat.jpg --top 2
  align-clip explain output/first curves --output-dir pictures
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompting.classifier import Classifier
from prompting.commands.predict import add_classes, add_loading, exit_code, given_classes, read_or_skip
from prompting.files import csv_bytes, write_figure, write_file
from prompting.images import find_images
from prompting.ot.checks import check_count
from prompting.run_folder import read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("run_folder", metavar="RUN", help="output folder of a run")
    what = parser.add_subparsers(dest="what", required=True, metavar="plan | words | embed | curves")

    def add_parser(draw: Callable[[argparse.Namespace, Path], int], about: str, *examples: str) -> Any:
        name = draw.__name__.lstrip("_")
        lines = "".join(f"\n  align-clip explain output/first {name}{example}" for example in examples)
        form = argparse.RawDescriptionHelpFormatter
        one = what.add_parser(name, help=about, description=about, epilog=f"examples:{lines}", formatter_class=form)
        one.add_argument("--output-dir", metavar="DIR", help="folder of the pictures (default: RUN/explain)")
        one.set_defaults(draw=draw)
        return one

    about = "transport plans of images: which prompts match, and where tokens lie"
    plan = add_parser(_plan, about, " photos/cat.jpg --top 2", ' photos/ --classes "cat,dog" --pairs 3')
    plan.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="image files, or folders that are searched")
    plan.add_argument("--top", type=int, default=3, metavar="K", help="likeliest classes to draw (default: 3)")
    plan.add_argument("--pairs", type=int, default=1, metavar="N", help="heaviest pairs of prompts (default: 1)")
    add_classes(plan)
    words = add_parser(_words, "nearest words of the vocabulary to each learned vector", "", " --top 10")
    words.add_argument("--top", type=int, default=5, metavar="K", help="words for each vector (default: 5)")
    embed = add_parser(_embed, "t-SNE of image features before and after tuning", "", " --most 200 --root data")
    embed.add_argument("--root", metavar="DIR", help="folder of the data sets (default: the run's)")
    embed.add_argument("--most", type=int, default=1000, metavar="N", help="largest number of images (default: 1000)")
    for one in (plan, words, embed):
        add_loading(one, device=False)
    about = "loss, accuracy, learning rate and transport over training"
    add_parser(_curves, about, "", " --output-dir pictures")


def run(args: argparse.Namespace) -> int:
    """Draw the pictures that the arguments ask for, print where they are, and return the exit code."""
    return args.draw(args, Path(args.output_dir or Path(args.run_folder, "explain")))


def _load(args: argparse.Namespace, **more: Any) -> Classifier:
    loading = {"epoch": args.load_epoch, "backbone": args.backbone, "device": "cpu", "precision": "fp32"}
    return Classifier.load(args.run_folder, **loading, **more)


def _plan(args: argparse.Namespace, folder: Path) -> int:
    from prompting.explain.plan_figure import plan_figure
    from prompting.explain.plans import transport_plans
    from prompting.explain.style import drawable_name

    check_count("--pairs", args.pairs)
    images = find_images(args.images)
    trained = _load(args, classnames=given_classes(args.classes, args.classes_file))
    written: list[Path] = []
    unreadable: list[Path] = []
    for path in images:
        if not (image := read_or_skip(path, trained.preprocess.turn, unreadable)):
            continue
        cropped = trained.preprocess.crop(image)
        (plan,) = transport_plans(trained.model, trained.preprocess(cropped)[None], trained.classnames, top=args.top)
        first = plan.classes[0]
        title = f"{trained.settings.method} sees {first.name} ({first.probability:.1%}) in {drawable_name(path)}"
        file, number = folder / f"plan-{path.stem}.png", 1
        while file in written:  # images of two folders may share a name
            number += 1
            file = folder / f"plan-{path.stem}-{number}.png"
        write_figure(plan_figure(cropped, plan, args.pairs, title), file)
        written.append(file)
        print(file)
    return exit_code(unreadable, images)


def _words(args: argparse.Namespace, folder: Path) -> int:
    from prompting.explain.words import in_words, nearest_words, word_spacing, words_figure

    trained = _load(args)
    found, spacing = nearest_words(trained.model, args.top, trained.classnames), word_spacing(trained.model)
    for vector in found:
        near = "  ".join(f"{word} {distance:.3f}" for word, distance in zip(vector.words, vector.distances))
        print(f"{vector.name:<24} {near}")
    print(in_words(found, spacing))
    rows: list[list[object]] = [["vector", "rank", "word", "distance", "multiple_of_word_spacing"]]
    for vector in found:
        for rank, (word, distance) in enumerate(zip(vector.words, vector.distances), 1):
            rows.append([vector.name, rank, word, f"{distance:.6f}", f"{distance / spacing:.3f}"])
    write_file(folder / "words.csv", csv_bytes(rows))
    title = f"Words nearest to the learned vectors of {trained.settings.method}"
    write_figure(words_figure(found, spacing, title), folder / "words.png")
    print(folder / "words.csv", folder / "words.png", sep="\n")
    return 0


def _embed(args: argparse.Namespace, folder: Path) -> int:
    from prompting.explain.embedding import embedding_figure

    trained = _load(args)
    write_figure(embedding_figure(trained, Path(args.run_folder), args.root, args.most), folder / "embed.png")
    print(folder / "embed.png")
    return 0


def _curves(args: argparse.Namespace, folder: Path) -> int:
    from prompting.explain.curves import curves_figure, read_curves

    method = read_run(args.run_folder)["config"]["TRAINER"]["NAME"]
    write_figure(curves_figure(read_curves(Path(args.run_folder)), f"Training of {method}"), folder / "curves.png")
    print(folder / "curves.png")
    return 0
