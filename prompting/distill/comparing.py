"""Accuracy, size, memory and speed of zero-shot CLIP, a teacher and its student, each in float32 and int8."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm  # comes with open_clip

from prompting.classifier import Classifier
from prompting.export.card import markdown
from prompting.export.convert import portable
from prompting.export.measure import BATCH, measure
from prompting.export.write import FILES, NUMBER, fix_iterations, weights_mb, write_form
from prompting.images import Preprocess
from prompting.run_folder import ModelSettings

Tested = Sequence[tuple[Path, int]]
"""Test images with their labels."""


@dataclass(frozen=True)
class Form:
    """One form of one model."""

    name: str
    score: Callable[[Tensor], Tensor]  # preprocessed images (B, 3, H, W) to logits (B, K)
    size_mb: float  # 10^6 bytes of the weights, or of the file
    source: Path  # the run's folder, or the file


@dataclass(frozen=True)
class Row:
    """A line of the table, and of the CSV file."""

    dataset: str
    method: str  # of the teacher
    form: str
    accuracy: float  # in percent, on the test images
    images: int  # number of test images
    size_mb: float
    peak_mb: float
    images_per_second: float
    images_per_cpu_second: float  # of all cores together; other programs change it less


def full(name: str, classifier: Classifier, run: Path) -> Form:
    """Return the form of a run as it is, with CLIP's text tower."""
    return Form(name, lambda images: classifier(images, len(images)).logits, weights_mb(classifier), run)


def exported(name: str, form: str, folder: Path, score: Callable[[Tensor], Tensor]) -> Form:
    """Return a form that ``write_form`` has written to a folder."""
    path = folder / FILES[form]
    return Form(name, score, path.stat().st_size / 1e6, path)


def int8_teacher(teacher: Classifier, images: Sequence[Path], folder: Path) -> Form:
    """Return the teacher's export with int8 weights, its transport's iterations fixed by ``images``.

    Raises:
        ValueError: a method that cannot be exported.
    """
    model = portable(teacher)
    fix_iterations(model, [model.vision(teacher.preprocess.stack(images))])
    write_form("onnx", model, folder)
    return exported("teacher int8", "int8", folder, write_form("int8", model, folder))


def compare(forms: Sequence[Form], tested: Tested, settings: ModelSettings) -> list[Row]:
    """Return a row for each form; memory and speed are measured on up to 100 images, each in a new process.

    Raises:
        RuntimeError: measuring failed.
    """
    preprocess, rows = Preprocess.from_json(settings.images), []
    hits = dict.fromkeys((form.name for form in forms), 0)
    with tqdm(total=len(tested), desc="test", unit="image", disable=None) as bar:
        for part in (tested[i : i + BATCH] for i in range(0, len(tested), BATCH)):
            images, labels = preprocess.stack([path for path, _ in part]), torch.tensor([label for _, label in part])
            for form in forms:
                hits[form.name] += int((form.score(images).argmax(1) == labels).sum())
            bar.update(len(part))
    images = preprocess.stack([path for path, _ in tested[:NUMBER]])
    for form in tqdm(forms, desc="memory and speed", unit="form", disable=None):
        accuracy = 100 * hits[form.name] / len(tested)
        about = settings.dataset, settings.method, form.name, accuracy, len(tested), form.size_mb
        rows.append(Row(*about, **measure(form.source, images.numpy())))  # type: ignore[arg-type]
    return rows


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    cells = [
        [row.form, f"{row.accuracy:.1f}", f"{row.size_mb:.1f}", f"{row.peak_mb:.0f}"]
        + [f"{speed:.1f}" for speed in (row.images_per_second, row.images_per_cpu_second)]
        for row in rows
    ]
    return markdown(["form", "accuracy (%)", "size (MB)", "peak memory (MB)", "images / s", "images / CPU s"], cells)
