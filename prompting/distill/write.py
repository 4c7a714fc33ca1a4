"""Distillation of a run into a folder: the files of the student, a table that compares it with its teacher, a card."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from prompting.classifier import Classifier
from prompting.distill.comparing import Row, as_table, compare, exported, full, int8_teacher
from prompting.distill.student import make_student
from prompting.distill.training import Settings, Views, teacher_probabilities, train
from prompting.export.card import csv_table, write_card
from prompting.export.convert import portable
from prompting.export.onnx import needed
from prompting.export.write import FILES, NUMBER, write_form
from prompting.files import file_hash, move_files, work_folder, write_file
from prompting.images import find_images
from prompting.run_folder import ModelSettings, images_of_test

Json = dict[str, Any]
ABOUT = """\
A ViT with {layers} blocks of width {width}, which gives one of {count} classes. It was trained to repeat the answers of
{method} (prompt tuning of the CLIP {backbone} on {dataset}) on {images:,} images without labels: knowledge distillation
(arXiv 1503.02531) at temperature {temperature:g}, {epochs} epochs, seed {seed}."""
PART = ".part"
NOTES = "The forms are compared on {images:,} test images, none of which the student was trained on."


def distill(
    run: Path,
    paths: Sequence[str | Path],
    folder: Path,
    settings: Settings,
    *,
    layers: int | None = None,
    width: int | None = None,
    root: Path | None = None,
    most: int = 2000,
    measured: bool = True,
    **loading: Any,
) -> list[Row]:
    """Train a student on a run's answers, and write it with its int8 form, a loader, the table and a model card.

    Images with the content of a test image of the run are left out of the training.

    Args:
        run: the teacher's folder.
        paths: images without labels: files, or folders that are searched for them.
        folder: folder to write; it must not exist, or be empty. It appears when everything is finished.
        settings: settings of the training.
        layers: blocks of the student; None takes half of the CLIP's.
        width: width of the student; None takes the CLIP's.
        root: folder of the data sets, where the run's test images are; None takes the run's.
        most: largest number of test images, evenly from the classes.
        measured: measure accuracy, memory and speed; False needs no test images.
        **loading: arguments of ``Classifier.load``.

    Returns:
        Rows for zero-shot, teacher, teacher int8 (of methods that can be exported), student and student int8; none if
        not measured.

    Raises:
        FileNotFoundError: there is no such run, image or, if measured, test image.
        FileExistsError: ``folder`` is not empty.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: a setting, an image or a CLIP that cannot be used.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    teacher = Classifier.load(run, **loading)
    made = teacher.settings
    test = _test_images(run, root, measured)
    found = find_images(paths)
    tested = {file_hash(path) for path, _ in test}
    images = [path for path in found if file_hash(path) not in tested]
    if not images:
        raise ValueError(f"all {len(found)} images are test images of {run}: give others to train on")
    with new_folder(folder) as part, tempfile.TemporaryDirectory() as scratch:
        untrained = replace(made, method="ZeroshotCLIP", options={}, checkpoint="", saved_part="")
        plain_run = untrained.write(Path(scratch, "zero-shot"))
        plain = Classifier.load(plain_run, device="cpu", precision="fp32")
        torch.manual_seed(settings.seed)
        student = make_student(portable(plain), layers, width)
        student.config["method"] = f"{made.method}, distilled"
        out = len(found) - len(images)
        print(f"{len(images):,} images without labels{f'; {out:,} test images are left out' if out else ''}")
        views, start = Views(images, teacher.preprocess, settings.views, settings.seed), time.perf_counter()
        answers = teacher_probabilities(lambda batch: teacher(batch, len(batch)).logits, views, settings)
        middle = time.perf_counter()
        losses = train(student, views, answers, settings, teacher.model.logit_scale.device)
        seconds = {"teacher": middle - start, "student": time.perf_counter() - middle}
        scores = {form: write_form(form, student, part) for form in FILES}
        rows: list[Row] = []
        if measured:
            teacher_run = made.write(Path(scratch, "teacher"))
            forms = [full("zero-shot", plain, plain_run), full("teacher", teacher, teacher_run)]
            try:
                forms.append(int8_teacher(teacher, images[:: -(-len(images) // NUMBER)], Path(scratch)))
            except ValueError as error:
                print(f"no row for the teacher's int8 form: {error}")
            forms += [exported("student", "safetensors", part, scores["safetensors"])]
            forms += [exported("student int8", "int8", part, scores["int8"])]
            try:
                rows = compare(forms, test[:most], made)
            except RuntimeError as error:  # the student is kept
                print(f"not measured: {error}")
        record = {"images": len(images), "settings": asdict(settings), "seconds": seconds, "losses": losses}
        _describe(part, student.config, made, rows, record)
    return rows


def _test_images(run: Path, root: Path | None, required: bool) -> list[tuple[Path, int]]:
    """Return the run's test images with their labels; none if they are neither there nor required."""
    try:
        return list(zip(*images_of_test(run, root, sys.maxsize)))
    except FileNotFoundError as error:
        if required:
            raise FileNotFoundError(f"{error} (--no-measure trains without them)") from None
        print("the run's test images are not there, so that none can be left out")
        return []


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``folder`` at the end; after an error or interruption nothing is left.

    Raises:
        FileExistsError: ``folder`` is a file, or holds files, or another process makes it.
    """
    folder = folder.absolute()
    there = folder.is_dir()  # or a link to a folder, or another disk
    if folder.is_file() or there and any(path.name != PART for path in folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is not empty: give another --output-dir, or remove it")
    with work_folder(folder / PART if there else folder.with_name(f".{folder.name}{PART}"), folder) as part:
        yield part
        if there:
            move_files(part, folder)
        else:
            part.rename(folder)


def _describe(folder: Path, config: Json, made: ModelSettings, rows: Sequence[Row], record: Json) -> None:
    """Write ``distill.json``, ``distill.csv`` and the model card."""
    text = json.dumps({**record, "rows": [asdict(row) for row in rows]}, indent=1)
    write_file(folder / "distill.json", text.encode())
    if rows:
        write_file(folder / "distill.csv", csv_table(rows))
    about = ABOUT.format(
        **{**made.as_json(), **config["vision"], **record["settings"], "images": record["images"]},
        layers=len(config["vision"]["adapters"]) - 1,
        count=len(config["classnames"]),
    )
    test = {"accuracy": next(row.accuracy for row in rows if row.form == "student")} if rows else {}
    notes = NOTES.format(images=rows[0].images) if rows else ""
    table = as_table(rows) if rows else "They were not measured."
    write_card(folder, config, made, test, table, about=about, notes=notes)
