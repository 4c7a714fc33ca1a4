"""Calibration error, and a picture of the confusion matrix."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def expected_calibration_error(confidence: Any, correct: Any, bins: int = 15) -> float:
    """Return the expected calibration error in percent.

    100 * sum over bins B of |B| / n * |mean of correct in B - mean of confidence in B|; bin m has the confidences in
    ((m - 1) / bins, m / bins], the first bin also 0.

    Args:
        confidence: (n,) probabilities of the predicted classes, in [0, 1]; n >= 1.
        correct: (n,) whether the predictions are right.
        bins: number of bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), Eq. 3, with its 15 bins.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=right - sure, minlength=bins)  # |B| * (accuracy - confidence)
    return float(100 * np.abs(gap).sum() / len(sure))


def draw_confusion(path: str, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix, normalised by row, with true classes as rows; without matplotlib, only warn.

    Args:
        path: image file to write.
        matrix: (K, K) values in [0, 1].
        names: K class names; drawn for at most 60 classes.
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
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
    figure.savefig(path, dpi=150)
