"""Per-image predictions, recorded by the evaluator and written to ``predictions.csv``."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dassl.evaluation import EvaluatorBase
from torch import Tensor

from prompting.files import csv_bytes, write_file
from prompting.ranking import likeliest
from trainers.record.log import logger

TOP = 5


class RecordingEvaluator:
    """Records paths, labels and predictions, and passes every call on to the wrapped Dassl evaluator."""

    def __init__(self, evaluator: EvaluatorBase) -> None:
        self.evaluator = evaluator
        self.reset()

    def __getattr__(self, name: str) -> Any:
        if name == "evaluator":  # not set yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.evaluator, name)

    def reset(self) -> None:
        """Forget everything, here and in the wrapped evaluator."""
        self.evaluator.reset()
        self.paths: list[str] = []
        self.labels: list[int] = []
        self.predicted: list[int] = []
        self.top: list[tuple[list[int], list[float]]] = []

    def add_paths(self, paths: Sequence[str]) -> None:
        """Add the paths of the images whose scores come next."""
        self.paths += paths

    def process(self, mo: Tensor | Sequence[Tensor], gt: Tensor) -> None:
        """Record scores (B, K), or a tuple that starts with them, and labels (B,)."""
        scores = mo if isinstance(mo, Tensor) else mo[0]
        indices, probabilities = likeliest(scores, TOP)
        self.top += zip(indices.tolist(), probabilities.tolist())
        self.predicted += indices[:, 0].tolist()
        self.labels += gt.tolist()
        self.evaluator.process(mo, gt)

    def class_accuracy(self, classes: int) -> list[float | None]:
        """Return the accuracy of every class in percent; None for a class without images."""
        hits, totals = [0] * classes, [0] * classes
        for label, predicted in zip(self.labels, self.predicted):
            totals[label] += 1
            hits[label] += label == predicted
        return [100 * h / t if t else None for h, t in zip(hits, totals)]

    def as_csv(self, root: str | os.PathLike[str], classnames: Sequence[str]) -> bytes:
        """Return the table: path relative to ``root``, label, prediction, and the likeliest classes."""
        k = len(self.top[0][0]) if self.top else 0
        heads = [f"{column}_{i + 1}" for i in range(k) for column in ("top", "probability")]
        rows: list[list[object]] = [["path", "label", "class", "predicted", "predicted_class", "correct", *heads]]
        for path, label, guess, (indices, values) in zip(self.paths, self.labels, self.predicted, self.top):
            likeliest = [cell for pair in zip(indices, (f"{value:.6g}" for value in values)) for cell in pair]
            relative = Path(os.path.relpath(path, root or ".")).as_posix()
            rows.append([relative, label, classnames[label], guess, classnames[guess], int(label == guess), *likeliest])
        return csv_bytes(rows)


def write_predictions(
    record: RecordingEvaluator, split: str, folder: str, root: str | os.PathLike[str], classnames: Sequence[str]
) -> None:
    """Write the run's ``predictions.csv``, whose paths are relative to ``root``.

    An older file with other content is archived. The file of val, ``predictions_val.csv``, is overwritten every epoch.
    """
    if len(record.paths) != len(record.labels) or not record.labels:
        seen = f"{len(record.labels)} labels, the batches {len(record.paths)} paths"
        logger.warning(f"No predictions.csv: the evaluator saw {seen}")
        return
    path = Path(folder) / ("predictions_val.csv" if split == "val" else "predictions.csv")
    content = record.as_csv(root, classnames)
    if split != "val" and path.is_file() and path.read_bytes() != content:
        archive(path)
    write_file(path, content)


def archive(path: Path) -> None:
    """Rename a file so that its name holds the time of its last change."""
    stamp = time.strftime("%Y-%m-%d-%H-%M-%S", time.localtime(path.stat().st_mtime))
    name, number = f"{path.stem}-{stamp}", 1
    while path.with_name(f"{name}{path.suffix}").exists():
        number += 1
        name = f"{path.stem}-{stamp}-{number}"
    path.rename(path.with_name(f"{name}{path.suffix}"))
