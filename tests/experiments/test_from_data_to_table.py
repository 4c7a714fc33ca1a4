"""Each of the fifteen sets, from its folder to the paper's table: check, one epoch of training, tests, table."""

import pytest

import train
from datasets import __main__ as command
from experiments import tables
from experiments.protocols import SUITES, RunDefaults, plan
from experiments.runs import read_results, state
from tests.reference.layouts import LAYOUTS
from tests.reference.params import long_but

PAPER = SUITES["all"]
WHICH = [*(("base2new", name) for name in PAPER.datasets("base2new")), *(("dg", name) for name in PAPER.shifts)]
SHOWN = [("base2new", "caltech101"), ("base2new", "eurosat"), ("dg", "imagenetv2")]


@pytest.mark.slow
@pytest.mark.parametrize("which", long_but(WHICH, *SHOWN), ids=[name for _, name in WHICH])
def test_check_train_test_table(which, small, tmp_path, call_main, monkeypatch):
    protocol, name = which
    monkeypatch.delenv("ALIGN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root, output = tmp_path / "data", tmp_path / "output"
    (made,) = command.find(name)
    for one in {made.__name__, *(["ImageNet"] if protocol == "dg" else [])}:
        LAYOUTS[one][0](root)
    code, out, _ = call_main(command, "check", name, "--root", root, "--any-size", "--images", "-1")
    assert code == 0 and "no problem found" in out, out

    (job,) = plan(protocol, ["CoOp"], [name], [1], RunDefaults(str(root), output, "", small))
    for run in job:
        code, out, err = call_main(train, *run.argv())
        assert code == 0, err
    assert "=> result" in out and [state(run) for run in job] == ["done", "done"]
    results = [read_results(run) for run in job]
    assert results[1]["dataset"] == made.__name__
    assert results[1]["learned_sha256"] == results[0]["learned_sha256"]
    counts = [result["metrics"]["test"]["images"] for result in results]
    assert LAYOUTS[made.__name__][1][2] == (sum(counts) if protocol == "base2new" else counts[1])

    code, out, err = call_main(tables, output, "--table", protocol, "--datasets", name, "--seeds", "1")
    assert code == 0 and "Missing" not in out, err
    line = next(line.split() for line in out.splitlines() if line.startswith("CoOp"))
    figures = [f"{result['metrics']['test']['accuracy']:.2f}" for result in results]
    assert set(figures) <= set(line), out
