"""Two processes on a CPU train and test as one does."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from dassl.utils import distributed

from tests.reference.shared_run import END_OF_FIRST
from tests.reference.torchrun import PROJECT, torchrun


@pytest.fixture(scope="module")
def runs(tiny_root, tmp_path_factory):
    """For one process and for two: output folder, standard output, and what the program says of its run."""
    one, two, more = (tmp_path_factory.mktemp(name) for name in ("one", "two", "more"))
    words = ["-m", "tests.reference.shared_run", tiny_root]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words, str(one)], cwd=PROJECT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outputs = done.stdout, torchrun([*words, str(two)], more, two / "log.txt")
    return [(f, out, torch.load(f / "result.pt", weights_only=False)) for f, out in zip((one, two), outputs)]


def lines(text):
    """Losses and results of the first run, without times."""
    text = text[: text.index(END_OF_FIRST)]
    return re.findall(r"^(?:epoch \[.*?(?= lr)|\* .*)", re.sub(r"time .*? loss", "loss", text), re.M)


@pytest.mark.slow
def test_learned_tensors_and_results_are_those_of_one_process(runs):
    (first, _, one), (second, _, two) = runs
    for a, b in zip(one["weights"], two["weights"]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert one["accuracy"] == two["accuracy"] and set(one["results"]) == set(two["results"]) == {"val", "test"}
    for split, results in one["results"].items():
        assert two["results"][split] == pytest.approx(results, rel=1e-5)
    assert one["paths"] == two["paths"] == [f"{name}_{i}.png" for name in ("apple", "bell", "cloud") for i in (8, 9)]
    rows = [json.loads((folder / "output.json").read_text()) for folder in (first, second)]
    assert list(rows[0]) == list(rows[1]) and len(rows[0]) == 6
    for path, row in rows[0].items():
        assert rows[1][path]["gt"] == row["gt"] and rows[1][path]["predict"] == pytest.approx(row["predict"], rel=1e-4)


@pytest.mark.slow
def test_the_log_is_that_of_one_process_and_the_second_writes_nothing(runs):
    (first, out, _), (second, both, _) = runs
    wanted, found = lines((first / "log.txt").read_text()), lines((second / "log.txt").read_text())
    # Losses are means over the whole batch; "images" counts this process's part, of which the mean is 2.6.
    assert len(wanted) > 30 and len(found) == len(wanted)
    for a, b in zip(wanted, found):
        assert re.sub(r" images .*", "", a) == re.sub(r" images .*", "", b)
    assert "images 5.0000" in wanted[0] and "images 2.6000" in found[0]
    assert len(lines(both)) == len(lines(out))
    for folder, _, _ in runs:
        assert sorted(p.name for p in folder.glob("log*")) == ["log.txt"]
        assert len(list((folder / "tensorboard").iterdir())) == 1
        saved = {"checkpoint", "model-best.pth.tar", *(f"model.pth.tar-{i}" for i in (1, 2, 3))}
        assert {p.name for p in (folder / "tiny").iterdir()} == saved


@pytest.mark.slow
def test_mistakes_end_all_processes_with_the_same_words(runs):
    (_, _, one), (_, _, two) = runs
    assert "bell_3" in two["anomaly"] and "Loss is infinite or NaN!" in two["anomaly"]
    where = re.compile(r"epoch \d+, batch \d+")
    assert where.findall(two["anomaly"]) == where.findall(one["anomaly"])
    assert two["too small"] == "A training batch of 1 is too small: each of 2 processes needs an image"
    assert "nowhere" in two["missing"]


@pytest.mark.parametrize(("number", "size"), [(7, 3), (5, 2), (4, 4), (9, 2)])
def test_shares_of_a_batch(monkeypatch, number, size):
    monkeypatch.setattr(distributed, "size", lambda: size)
    rows = torch.arange(number)
    batch = {"label": rows, "img": [rows, rows], "impath": [str(i) for i in range(number)]}
    seen, total = [], 0.0
    for rank in range(size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        (part,), share = distributed.take_share((batch,))
        assert part["impath"] == [str(i) for i in part["label"].tolist()]
        assert all(torch.equal(view, part["label"]) for view in part["img"])
        assert share == pytest.approx(len(part["label"]) / number)
        seen, total = seen + part["label"].tolist(), total + share
    assert seen == list(range(number)) and total == pytest.approx(1)
    assert distributed.weighted_mean(None, share) is None  # of a step that reports nothing
    with pytest.raises(TypeError, match="'label'.*list"):
        distributed.take_share(([1, 2],))
    with pytest.raises(ValueError, match="multiples of"):
        distributed.take_share((batch, {"label": torch.arange(size + 1)}))


def test_one_process_is_left_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # as a cluster may set it, without torchrun
    monkeypatch.setenv("RANK", "2")
    assert (distributed.size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    batch = {"label": torch.arange(3)}
    assert distributed.take_share((batch,)) == ((batch,), 1.0)
