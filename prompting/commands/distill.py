"""Train a small model to repeat a trained run's answers, on images without labels.

examples:
  align-clip distill output/first photos/ --output-dir student
  align-clip distill output/first photos/ more/*.jpg --layers 4 --epochs 50 --output-dir student

Test images of the run are never trained on. A table compares zero-shot CLIP, teacher and student, and their int8 forms.
"""

import argparse
from pathlib import Path

from prompting.commands.predict import add_loading
from prompting.ot.checks import check_count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add = parser.add_argument
    add("run_folder", metavar="RUN", help="output folder of a run, the teacher")
    add("images", metavar="IMAGES", nargs="+", help="images without labels: files, or folders that are searched")
    add("--output-dir", metavar="DIR", help="folder to write, which must be new or empty (default: RUN/distill)")
    add("--layers", type=int, metavar="N", help="blocks of the student (default: half of the CLIP's)")
    add("--width", type=int, metavar="N", help="its width (default: that of the CLIP, whose weights it starts from)")
    add("--epochs", type=int, default=20, metavar="N", help="passes over the images (default: 20)")
    add("--lr", type=float, default=5e-4, help="largest learning rate (default: 5e-4)")
    add("--temperature", type=float, default=2.0, metavar="T", help="temperature of the loss (default: 2)")
    add("--views", type=int, default=4, metavar="V", help="crops of each image that the teacher scores (default: 4)")
    add("--batch-size", type=int, default=32, metavar="B", help="images of a step (default: 32)")
    add("--workers", type=int, default=2, metavar="N", help="processes that read images (default: 2)")
    add("--seed", type=int, default=1, help="seed (default: 1)")
    add("--root", metavar="DIR", help="folder of the data sets, for the test images (default: that of the run)")
    add("--test-images", type=int, default=2000, metavar="N", help="largest number of test images (default: 2000)")
    add("--no-measure", action="store_true", help="do not measure accuracy, memory and speed; needs no test images")
    add_loading(parser)


def run(args: argparse.Namespace) -> int:
    """Distill, print the table, and return the exit code."""
    from prompting.distill.comparing import as_table
    from prompting.distill.training import Settings
    from prompting.distill.write import distill

    check_count("--test-images", args.test_images)
    settings = Settings(
        args.epochs, args.lr, args.temperature, args.views, args.batch_size, workers=args.workers, seed=args.seed
    )
    folder = Path(args.output_dir or Path(args.run_folder, "distill"))
    rows = distill(
        Path(args.run_folder),
        args.images,
        folder,
        settings,
        layers=args.layers,
        width=args.width,
        root=Path(args.root) if args.root else None,
        most=args.test_images,
        measured=not args.no_measure,
        backbone=args.backbone,
        epoch=args.load_epoch,
        device=args.device,
    )
    print(f"\n{as_table(rows)}\n" if rows else "")
    print(f"{folder / 'README.md'} says how to load it")
    return 0
