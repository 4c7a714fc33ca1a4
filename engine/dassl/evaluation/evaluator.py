"""Evaluators: collect predictions batch by batch, then report results."""

from __future__ import annotations

import csv
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from dassl.utils import mkdir_if_missing
from yacs.config import CfgNode

from .build import EVALUATOR_REGISTRY
from .classes import draw_confusion, expected_calibration_error, write_class_table

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
    adds the expected calibration error of softmax(scores). ``TEST.COMPUTE_CMAT`` writes the confusion matrix as
    ``cmat.pt``, ``cmat.csv`` and ``cmat.png``.

    Args:
        cfg: config; reads ``TEST.PER_CLASS_RESULT``, ``TEST.COMPUTE_CMAT`` and ``OUTPUT_DIR``.
        lab2cname: label -> class name, needed for per-class results.

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
            results["perclass_accuracy"] = self._report_classes(true, pred)
            results["ece"] = expected_calibration_error(self._confidence, true == pred)
            mkdir_if_missing(self.cfg.OUTPUT_DIR)
            path = os.path.join(self.cfg.OUTPUT_DIR, "per_class.csv")
            write_class_table(path, true, pred, self._lab2cname)
            logger.info(f"Expected calibration error: {results['ece']:.1f}% ({path} has precision and F1 a class)")
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion(true, pred)
        return results

    def _report_classes(self, true: np.ndarray, pred: np.ndarray) -> float:
        logger.info("=> per-class result")
        accuracies = []
        for label in np.unique(true).tolist():
            hits = pred[true == label] == label
            accuracies.append(100.0 * int(hits.sum()) / len(hits))
            logger.info(
                f"* class: {label} ({self._lab2cname[label]})\t"
                f"total: {len(hits):,}\tcorrect: {int(hits.sum()):,}\tacc: {accuracies[-1]:.1f}%"
            )
        mean = float(np.mean(accuracies))
        logger.info(f"* average: {mean:.1f}%")
        return mean

    def _save_confusion(self, true: np.ndarray, pred: np.ndarray) -> None:
        from sklearn.metrics import confusion_matrix

        matrix = confusion_matrix(true, pred, normalize="true")
        mkdir_if_missing(self.cfg.OUTPUT_DIR)
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        torch.save(matrix, path)
        labels = np.union1d(true, pred).tolist()
        with open(os.path.join(self.cfg.OUTPUT_DIR, "cmat.csv"), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["true \\ predicted", *labels])
            writer.writerows([label, *row] for label, row in zip(labels, matrix.tolist()))
        logger.info(f"Confusion matrix is saved to {path}")
        names = [self._lab2cname.get(label, str(label)) for label in labels]
        draw_confusion(os.path.join(self.cfg.OUTPUT_DIR, "cmat.png"), matrix, names)
