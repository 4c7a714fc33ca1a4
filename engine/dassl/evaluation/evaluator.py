"""Evaluators: collect predictions batch by batch, then report results."""

import csv
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from dassl.utils import by_product, mkdir_if_missing
from yacs.config import CfgNode

from .build import EVALUATOR_REGISTRY

logger = logging.getLogger(__name__)


class EvaluatorBase:
    """Interface of evaluators."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forget all predictions."""
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add a batch of model outputs and labels."""
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        """Report and return the results; trainers compare the first one."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error and macro F1; optionally per-class results, calibration and the confusion matrix.

    ``TEST.PER_CLASS_RESULT`` prints the accuracy of every class, writes ``per_class.csv`` (with precision and F1) and
    adds the expected calibration error of softmax(scores); it needs ``lab2cname``, label -> class name.
    ``TEST.COMPUTE_CMAT`` writes the confusion matrix as ``cmat.pt``, ``cmat.csv`` and ``cmat.png``.

    Raises:
        ValueError: ``TEST.PER_CLASS_RESULT`` is set without ``lab2cname``.
    """

    def __init__(self, cfg: CfgNode, lab2cname: Mapping[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs lab2cname (label -> class name), but got None")
        self._lab2cname: Mapping[int, str] = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._y_true: list[int] = []
        self._y_pred: list[int] = []
        self._confidence: list[float] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add scores (B, K) and labels (B,)."""
        self._y_pred += mo.max(1)[1].tolist()
        self._y_true += gt.tolist()
        if self.cfg.TEST.PER_CLASS_RESULT:
            self._confidence += mo.float().softmax(1).max(1)[0].tolist()

    def evaluate(self) -> OrderedDict[str, float]:
        """Report on all batches since the last reset.

        Returns:
            ``accuracy``, ``error_rate``, ``macro_f1`` (over the classes that occur) and, with
            ``TEST.PER_CLASS_RESULT``, ``perclass_accuracy`` (mean over classes) and ``ece`` (expected calibration
            error), all in percent.

        Raises:
            ValueError: there were no samples.
        """
        from sklearn.metrics import f1_score

        if not self._y_true:
            raise ValueError("There is nothing to evaluate: no batch was processed since the last reset")
        true, pred = np.array(self._y_true), np.array(self._y_pred)
        total, correct = len(true), int((true == pred).sum())
        accuracy = 100.0 * correct / total
        macro_f1 = 100.0 * float(f1_score(true, pred, average="macro", labels=np.unique(true)))
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=macro_f1)
        logger.info(
            "=> result\n"
            f"* total: {total:,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {macro_f1:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            path = self._path("per_class.csv")
            results["perclass_accuracy"] = self._report_classes(true, pred, path)
            results["ece"] = expected_calibration_error(self._confidence, true == pred)
            logger.info(f"Expected calibration error: {results['ece']:.1f}% ({path} has precision and F1 a class)")
        if self.cfg.TEST.COMPUTE_CMAT:
            with by_product("The confusion matrix"):
                self._save_confusion(true, pred)
        return results

    def _report_classes(self, true: np.ndarray, pred: np.ndarray, path: str) -> float:
        """Log and save the numbers of each class in ``true``; return the mean accuracy."""
        from sklearn.metrics import precision_recall_fscore_support

        logger.info("=> per-class result")
        labels = np.unique(true)
        precision, _, f1, _ = precision_recall_fscore_support(true, pred, labels=labels, zero_division=0)
        rows = []
        for label, of_precision, of_f1 in zip(labels.tolist(), precision.tolist(), f1.tolist()):
            hits, name = pred[true == label] == label, self._lab2cname[label]
            total, correct = len(hits), int(hits.sum())
            accuracy = 100.0 * correct / total
            logger.info(f"* class: {label} ({name})\ttotal: {total:,}\tcorrect: {correct:,}\tacc: {accuracy:.1f}%")
            rows.append([label, name, total, correct, accuracy, 100 * of_precision, 100 * of_f1])
        with by_product(path):
            _write_csv(path, [["label", "class", "total", "correct", "accuracy", "precision", "f1"], *rows])
        mean = float(np.mean([row[4] for row in rows]))
        logger.info(f"* average: {mean:.1f}%")
        return mean

    def _save_confusion(self, true: np.ndarray, pred: np.ndarray) -> None:
        from sklearn.metrics import confusion_matrix

        matrix = confusion_matrix(true, pred, normalize="true")
        path = self._path("cmat.pt")
        torch.save(matrix, path)
        labels = np.union1d(true, pred).tolist()
        rows = [[label, *row] for label, row in zip(labels, matrix.tolist())]
        _write_csv(self._path("cmat.csv"), [["true \\ predicted", *labels], *rows])
        logger.info(f"Confusion matrix is saved to {path}")
        names = [self._lab2cname.get(label, str(label)) for label in labels]
        draw_confusion(self._path("cmat.png"), matrix, names)

    def _path(self, name: str) -> str:
        mkdir_if_missing(self.cfg.OUTPUT_DIR)
        return os.path.join(self.cfg.OUTPUT_DIR, name)


def _write_csv(path: str, rows: list[list[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows(rows)


def expected_calibration_error(confidence: Any, correct: Any) -> float:
    """Return the expected calibration error in percent of (n,) probabilities of the predicted classes and (n,) hits.

    100 * sum over bins B of |B| / n * |mean of correct in B - mean of confidence in B|; bin m has the confidences in
    ((m - 1) / 15, m / 15], the first bin also 0.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), Eq. 3, with its 15 bins.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = np.clip(np.ceil(sure * 15).astype(int) - 1, 0, 14)
    gap = np.bincount(place, weights=right - sure, minlength=15)  # |B| * (accuracy - confidence)
    return float(100 * np.abs(gap).sum() / len(sure))


def draw_confusion(path: str, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix (K, K), normalised by row, with true classes as rows; without matplotlib, only warn.

    The K class names are drawn for at most 60 classes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("The confusion matrix is not drawn: matplotlib is not installed")
        return
    side = min(3 + 0.22 * len(names), 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * matrix, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(image, label="% of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= 60:
        names = [name.encode("utf-8", "backslashreplace").decode() for name in names]  # of folders that are not UTF-8
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=6, parse_math=False)
    figure.savefig(path, dpi=150)
