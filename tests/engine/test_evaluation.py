"""The evaluator and accuracies against scikit-learn and counts by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from dassl.evaluation import Classification
from dassl.metrics import compute_accuracy
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score


@pytest.fixture
def predictions():
    """Labels of 4 classes, one of which never occurs; scores that are right about half the time."""
    stream = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (40,), generator=stream)
    scores = torch.randn(40, 4, generator=stream) + 1.5 * torch.nn.functional.one_hot(labels, 4)
    return scores, labels


def run(cfg, scores, labels):
    evaluator = Classification(cfg, lab2cname={i: f"name{i}" for i in range(4)})
    evaluator.process(scores, labels.flip(0))  # forgotten by the reset
    evaluator.reset()
    for start in range(0, 40, 16):
        evaluator.process(scores[start : start + 16], labels[start : start + 16])
    return evaluator.evaluate()


def test_results_are_scikit_learns(make_cfg, predictions, capsys):
    scores, labels = predictions
    results = run(make_cfg("TEST.PER_CLASS_RESULT", True), scores, labels)
    pred = scores.argmax(1)
    assert list(results) == ["accuracy", "error_rate", "macro_f1", "perclass_accuracy", "ece"]
    assert results["accuracy"] == pytest.approx(100 * accuracy_score(labels, pred))
    assert results["error_rate"] == pytest.approx(100 - results["accuracy"])
    assert results["macro_f1"] == pytest.approx(100 * f1_score(labels, pred, average="macro", labels=[0, 1, 2]))
    by_class = [100 * (pred[labels == k] == k).float().mean().item() for k in range(3)]
    assert results["perclass_accuracy"] == pytest.approx(np.mean(by_class))
    lines = capsys.readouterr().out.splitlines()
    correct = int((pred == labels).sum())
    start = lines.index("=> result")
    assert lines[start + 1 : start + 4] == ["* total: 40", f"* correct: {correct}", f"* accuracy: {correct / 0.4:.1f}%"]
    hits, total = int((pred[labels == 1] == 1).sum()), int((labels == 1).sum())
    assert f"* class: 1 (name1)\ttotal: {total}\tcorrect: {hits}\tacc: {100 * hits / total:.1f}%" in lines
    assert f"* average: {np.mean(by_class):.1f}%" in lines


def test_confusion_matrix_files(make_cfg, predictions):
    cfg = make_cfg("TEST.COMPUTE_CMAT", True)
    scores, labels = predictions
    run(cfg, scores, labels)
    wanted = confusion_matrix(labels, scores.argmax(1), normalize="true")
    saved = torch.load(f"{cfg.OUTPUT_DIR}/cmat.pt", weights_only=False)
    assert isinstance(saved, np.ndarray)
    np.testing.assert_allclose(saved, wanted)
    with open(f"{cfg.OUTPUT_DIR}/cmat.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == rows[0][1:]
    np.testing.assert_allclose([[float(x) for x in row[1:]] for row in rows[1:]], wanted)


def test_errors(make_cfg):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        Classification(make_cfg()).evaluate()
    with pytest.raises(ValueError, match="lab2cname"):
        Classification(make_cfg("TEST.PER_CLASS_RESULT", True))


def test_accuracy_at_k_is_a_count(predictions):
    scores, labels = predictions
    answers = compute_accuracy((scores, "features"), labels, topk=(1, 2, 4))
    for k, answer in zip((1, 2, 4), answers):
        count = sum(int(label) in np.argsort(-row)[:k] for row, label in zip(scores.numpy(), labels))
        assert answer.shape == (1,)
        assert answer.item() == pytest.approx(100 * count / 40)
    with pytest.raises(ValueError, match=r"\[1, 4\]"):
        compute_accuracy(scores, labels, topk=(5,))
