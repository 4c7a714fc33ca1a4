"""Calibration error, per-class precision and recall, and a picture of the confusion matrix."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)
BINS = 15


def expected_calibration_error(confidence: Any, correct: Any, bins: int = BINS) -> float:
    """Return the expected calibration error in percent.

    100 * sum over bins B of |B| / n * |mean of correct in B - mean of confidence in B|; bin m has the confidences in
    ((m - 1) / bins, m / bins], the first bin also 0.

    Args:
        confidence: (n,) probabilities of the predicted classes, in [0, 1].
        correct: (n,) whether the predictions are right.
        bins: number of bins of equal width.

    Raises:
        ValueError: there are no samples or bins, lengths differ, or a confidence is not in [0, 1].

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), Eq. 3, with its 15 bins.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not len(sure):
        raise ValueError(f"needs as many confidences as outcomes, at least one; got {sure.shape} and {right.shape}")
    if bins < 1 or not ((sure >= 0) & (sure <= 1 + 1e-6)).all():
        raise ValueError(f"confidences must be in [0, 1] and bins at least 1; got up to {sure.max()} and {bins} bins")
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=right - sure, minlength=bins)  # |B| * (accuracy - confidence)
    return float(100 * np.abs(gap).sum() / len(sure))


def write_class_table(path: str, true: np.ndarray, pred: np.ndarray, names: Mapping[int, str]) -> None:
    """Write a CSV file with total, correct, accuracy, precision and F1 (in percent) of every class in ``true``.

    Args:
        path: file to write.
        true: (n,) labels.
        pred: (n,) predicted labels.
        names: label -> class name.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels = np.unique(true)
    precision, recall, f1, total = precision_recall_fscore_support(true, pred, labels=labels, zero_division=0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "class", "total", "correct", "accuracy", "precision", "f1"])
        for k, label in enumerate(labels.tolist()):
            correct = int(((true == label) & (pred == label)).sum())
            shares = [float(100 * of[k]) for of in (recall, precision, f1)]  # a class's accuracy is its recall
            writer.writerow([label, names.get(label, ""), int(total[k]), correct, *shares])


def draw_confusion(path: str, matrix: np.ndarray, names: Sequence[str]) -> bool:
    """Draw a confusion matrix, normalised by row, with true classes as rows.

    Args:
        path: image file to write.
        matrix: (K, K) values in [0, 1].
        names: K class names; drawn for at most 60 classes.

    Returns:
        Whether the file was written; without matplotlib there is a warning only.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("The confusion matrix is not drawn: matplotlib is not installed")
        return False
    side = min(3 + 0.22 * len(names), 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * matrix, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(image, label="% of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= 60:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
    figure.savefig(path, dpi=150)
    return True
