"""Calibration against a loop and closed forms; the files of results a class."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from dassl.evaluation import Classification
from dassl.evaluation.classes import draw_confusion, expected_calibration_error
from sklearn.metrics import f1_score, precision_score


def ece_by_loop(confidence, correct, bins):
    """The definition, bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        low, high = (m - 1) / bins, m / bins
        inside = [(p, c) for p, c in zip(confidence, correct) if low < p <= high or (m == 1 and p == 0)]
        if inside:
            accuracy = sum(c for _, c in inside) / len(inside)
            mean = sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return 100 * total


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_is_the_loops(bins):
    stream = np.random.default_rng(bins)
    for n in (1, 5, 400):
        confidence, correct = stream.uniform(0, 1, n), stream.integers(0, 2, n).astype(bool)
        assert expected_calibration_error(confidence, correct, bins) == pytest.approx(
            ece_by_loop(confidence, correct, bins)
        )


def test_calibration_error_in_closed_form():
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0
    assert expected_calibration_error([1.0, 1.0], [False, False]) == 100
    assert expected_calibration_error([0.8] * 10, [True] * 8 + [False] * 2) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error([0.8] * 10, [True] * 5 + [False] * 5) == pytest.approx(30)
    # two bins, a quarter and three quarters of the samples, 20 and 10 percent off
    confidence, correct = [0.7] * 10 + [0.9] * 30, [True] * 9 + [False] + [True] * 24 + [False] * 6
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.25 * 20 + 0.75 * 10)
    # opposite errors cancel within a bin, not between bins
    assert expected_calibration_error([0.5, 0.5], [True, False]) == pytest.approx(0)
    assert expected_calibration_error([0.25, 0.75], [True, False], bins=2) == pytest.approx(75)


@pytest.mark.parametrize("confidence, correct", [([], []), ([0.5], [True, False]), ([1.5], [True]), ([-0.1], [True])])
def test_calibration_refuses_what_is_no_probability(confidence, correct):
    with pytest.raises(ValueError):
        expected_calibration_error(confidence, correct)


@pytest.fixture
def scored():
    stream = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 3, (60,), generator=stream)
    return torch.randn(60, 4, generator=stream) + 2 * torch.nn.functional.one_hot(labels, 4), labels


def test_files_of_the_evaluator(make_cfg, scored):
    scores, labels = scored
    cfg = make_cfg("TEST.PER_CLASS_RESULT", True, "TEST.COMPUTE_CMAT", True)
    evaluator = Classification(cfg, lab2cname=dict(enumerate("abcd")))
    for part in range(0, 60, 25):
        evaluator.process(scores[part : part + 25], labels[part : part + 25])
    results = evaluator.evaluate()
    pred, confidence = scores.argmax(1), scores.softmax(1).amax(1)
    assert results["ece"] == pytest.approx(ece_by_loop(confidence.tolist(), (pred == labels).tolist(), 15), rel=1e-5)
    with open(f"{cfg.OUTPUT_DIR}/per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["class"]) for row in rows] == [("0", "a"), ("1", "b"), ("2", "c")]
    for k, row in enumerate(rows):
        own = labels == k
        assert (int(row["total"]), int(row["correct"])) == (int(own.sum()), int((pred[own] == k).sum()))
        assert float(row["accuracy"]) == pytest.approx(100 * (pred[own] == k).float().mean().item())
        assert float(row["precision"]) == pytest.approx(100 * precision_score(labels == k, pred == k))
        assert float(row["f1"]) == pytest.approx(100 * f1_score(labels == k, pred == k))
    assert np.mean([float(row["f1"]) for row in rows]) == pytest.approx(results["macro_f1"])
    with open(f"{cfg.OUTPUT_DIR}/cmat.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_without_the_switches_nothing_is_written(make_cfg, scored, tmp_path):
    cfg = make_cfg()
    evaluator = Classification(cfg)
    evaluator.process(*scored)
    assert list(evaluator.evaluate()) == ["accuracy", "error_rate", "macro_f1"]
    assert not (tmp_path / "out").exists()


def test_the_picture_is_left_out_without_matplotlib(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with caplog.at_level("WARNING"):
        assert not draw_confusion(str(tmp_path / "x.png"), np.eye(2), ["a", "b"])
    assert not list(tmp_path.iterdir())
