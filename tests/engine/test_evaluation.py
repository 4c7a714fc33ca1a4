"""Evaluator and accuracies against scikit-learn and counts; calibration against a loop."""

import csv

import numpy as np
import pytest
import torch
from dassl.evaluation.evaluator import Classification, draw_confusion
from dassl.metrics import compute_accuracy
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score


@pytest.fixture
def predictions():
    """Scores of 4 classes that are right about half the time; the fourth class never occurs as a label."""
    stream = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (40,), generator=stream)
    scores = torch.randn(40, 4, generator=stream) + 1.5 * torch.nn.functional.one_hot(labels, 4)
    return scores, labels


def run(cfg, scores, labels):
    evaluator = Classification(cfg, lab2cname={i: f"name{i}" for i in range(4)})
    evaluator.process(scores, labels.flip(0))  # cleared by the reset
    evaluator.reset()
    for start in range(0, 40, 16):
        evaluator.process(scores[start : start + 16], labels[start : start + 16])
    return evaluator.evaluate()


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_results_are_scikit_learns(make_cfg, predictions):
    cfg = make_cfg("TEST.PER_CLASS_RESULT", True)
    scores, labels = predictions
    results = run(cfg, scores, labels)
    pred, confidence = scores.argmax(1), scores.softmax(1).amax(1)
    assert list(results) == ["accuracy", "error_rate", "macro_f1", "perclass_accuracy", "ece"]
    assert results["accuracy"] == pytest.approx(100 * accuracy_score(labels, pred))
    assert results["error_rate"] == pytest.approx(100 - results["accuracy"])
    assert results["macro_f1"] == pytest.approx(100 * f1_score(labels, pred, average="macro", labels=[0, 1, 2]))
    assert results["ece"] == pytest.approx(ece_by_loop(confidence.tolist(), (pred == labels).tolist()), rel=1e-5)
    by_class = [100 * (pred[labels == k] == k).float().mean().item() for k in range(3)]
    assert results["perclass_accuracy"] == pytest.approx(np.mean(by_class))
    rows = read_csv(f"{cfg.OUTPUT_DIR}/per_class.csv")
    assert rows[0] == ["label", "class", "total", "correct", "accuracy", "precision", "f1"] and len(rows) == 4
    for k, (label, name, total, correct, *percent) in enumerate(rows[1:]):
        hits = (labels == k) & (pred == k)
        assert (label, name) == (str(k), f"name{k}")
        assert (int(total), int(correct)) == (int((labels == k).sum()), int(hits.sum()))
        wanted = by_class[k], 100 * precision_score(labels == k, pred == k), 100 * f1_score(labels == k, pred == k)
        assert [float(x) for x in percent] == pytest.approx(wanted)


def test_confusion_matrix_files(make_cfg, predictions):
    cfg = make_cfg("TEST.COMPUTE_CMAT", True)
    scores, labels = predictions
    run(cfg, scores, labels)
    wanted = confusion_matrix(labels, scores.argmax(1), normalize="true")
    saved = torch.load(f"{cfg.OUTPUT_DIR}/cmat.pt", weights_only=False)
    assert isinstance(saved, np.ndarray)
    np.testing.assert_allclose(saved, wanted)
    rows = read_csv(f"{cfg.OUTPUT_DIR}/cmat.csv")
    assert [row[0] for row in rows[1:]] == rows[0][1:]
    np.testing.assert_allclose([[float(x) for x in row[1:]] for row in rows[1:]], wanted)
    with open(f"{cfg.OUTPUT_DIR}/cmat.png", "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_class_names_with_dollars_are_drawn_and_a_picture_that_fails_keeps_the_result(make_cfg, caplog, tmp_path):
    scores, labels = torch.eye(4), torch.arange(4)
    for blocked, last in ((False, "\udcff"), (True, "é")):
        names = dict(enumerate(["$", "$x_{", "5 $ a $", last]))
        words = ["TEST.COMPUTE_CMAT", True, "TEST.PER_CLASS_RESULT", blocked]
        cfg = make_cfg(*words, "OUTPUT_DIR", str(tmp_path / str(blocked)))
        for name in ("cmat.csv", "per_class.csv") if blocked else ():
            (tmp_path / "True" / name).mkdir(parents=True)
        evaluator = Classification(cfg, names)
        evaluator.process(scores, labels)
        with caplog.at_level("WARNING"):
            assert evaluator.evaluate()["accuracy"] == 100.0
        for words in ("The confusion matrix: not written", "per_class.csv: not written"):
            assert (words in caplog.text) == blocked
    assert (tmp_path / "False" / "cmat.png").is_file()


def test_no_files_by_default_and_no_picture_without_matplotlib(make_cfg, predictions, tmp_path, monkeypatch):
    assert list(run(make_cfg(), *predictions)) == ["accuracy", "error_rate", "macro_f1"]
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    draw_confusion(str(tmp_path / "x.png"), np.eye(2), ["a", "b"])
    assert not list(tmp_path.iterdir())
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


def ece_by_loop(confidence, correct, bins=15):
    """The expected calibration error by its definition, bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [(p, c) for p, c in zip(confidence, correct) if (m - 1) / bins < p <= m / bins]
        if inside:
            accuracy = sum(c for _, c in inside) / len(inside)
            mean = sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return 100 * total
