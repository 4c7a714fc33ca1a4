"""Export a trained run for its classes: safetensors with a loader in one file, ONNX, and ONNX with int8 weights.

examples:
  align-clip export output/first
  align-clip export output/first --forms onnx int8 --output-dir classifier --push-to-hub me/my-classifier

Each form is checked on 100 images against the model; a table compares size, memory, speed and agreement.
"""

import argparse
from pathlib import Path

from prompting.commands.predict import add_classes, add_loading, given_classes
from prompting.files import check_place, write_file
from prompting.ot.checks import check_count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add = parser.add_argument
    add("run_folder", metavar="RUN", help="output folder of a run")
    add("--output-dir", metavar="DIR", help="folder to write to (default: RUN/export)")
    add("--forms", nargs="+", choices=("safetensors", "onnx", "int8"), help="forms to write (default: all)")
    add_classes(parser)
    add("--images", metavar="FOLDER", help="images to check the export on (default: the run's test images, else noise)")
    add("--iterations", type=int, metavar="N", help="iterations of the transport (default: 1.5 times those needed)")
    add("--no-measure", action="store_true", help="do not measure memory and speed")
    add("--csv", metavar="FILE", help="also write the table to this file")
    add("--push-to-hub", metavar="REPO", help="upload the folder to this repository of the Hugging Face Hub")
    add_loading(parser, device=False)


def run(args: argparse.Namespace) -> int:
    """Export, print the table, and return the exit code."""
    from prompting.export.card import csv_table
    from prompting.export.write import FORMS, as_table, export

    if args.iterations is not None:
        check_count("--iterations", args.iterations)
    if args.csv:
        check_place(Path(args.csv))
    folder = Path(args.output_dir or Path(args.run_folder, "export"))
    forms = export(
        Path(args.run_folder),
        folder,
        args.forms or FORMS,
        images=Path(args.images) if args.images else None,
        iterations=args.iterations,
        measured=not args.no_measure,
        epoch=args.load_epoch,
        backbone=args.backbone,
        classnames=given_classes(args.classes, args.classes_file),
    )
    print(f"\n{as_table(forms)}\n\n{folder / 'README.md'} says how to load it")
    if args.csv:
        write_file(Path(args.csv), csv_table(forms))
    if args.push_to_hub:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(args.push_to_hub, exist_ok=True)
        print(api.upload_folder(folder_path=folder, repo_id=args.push_to_hub))
    return 0
