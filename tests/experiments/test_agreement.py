"""Rank correlation with the published averages, and the row of a method, on made-up results."""

import numpy as np
import pandas as pd
import pytest

from experiments import agreement, row
from experiments.agreement import compute, published
from experiments.protocols import SUITES
from experiments.tables import FIGURES

SUITE = SUITES["mini"]
METHODS = ["ZeroshotCLIP", "CoOp", "CoCoOp", "MaPLe"]


def results(protocol, parts, accuracy, shots=16, seeds=(1, 2)):
    """One row per run; ``accuracy`` of a method's index, a part and a data set's index."""
    sets = [SUITE.source] if protocol == "fewshot" else SUITE.datasets(protocol)
    rows = [
        (method, name, part, shots, seed, accuracy(i, part, j) + seed - 1.5, "mini")
        for i, method in enumerate(METHODS) for part in parts for j, name in enumerate(sets) for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "dataset", "part", "shots", "seed", "accuracy", "config"])


def h(base, new):
    return 2 * base * new / (base + new)


def test_published_averages_are_those_of_the_table_and_one_name_counts_once():
    figures = published("base2new", "H")
    assert figures["MaPLe"] == FIGURES["base2new", "MaPLe", "average", 16, "ViT-B/16", "H"][0]
    assert not {"ALIGN", "MMP"} <= set(figures.index) and "PromptSRC" in figures.index


def test_ranks_that_agree_and_ranks_that_do_not(tmp_path, call_main):
    base, new = published("base2new", "base")[METHODS], published("base2new", "new")[METHODS]

    def accuracy(i, part, j):  # base as published, new the other way round
        return base.iloc[i] + 0.1 * j if part == "base" else 150 - new.iloc[i]

    results("base2new", ("base", "new"), accuracy).to_csv(tmp_path / "base2new.csv", index=False)
    found = compute(tmp_path)
    assert list(found) == ["base-to-new, base", "base-to-new, new", "base-to-new, H"]
    assert [found[f"base-to-new, {key}"]["rho"] for key in ("base", "new")] == pytest.approx([1, -1])
    assert found["base-to-new, base"]["low"] == pytest.approx(1)  # in every draw of sets
    assert found["base-to-new, base"]["methods"] == METHODS
    mean = np.mean(0.1 * np.arange(len(SUITE.targets) + 1))
    expected = [h(b + mean, 150 - n) for b, n in zip(base, new)]
    np.testing.assert_allclose(found["base-to-new, H"]["small"], expected)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- agreement -->\nold\n<!-- end -->\nafter\n")
    code, _, _ = call_main(agreement, "--results", tmp_path, "--page", page, "--figure", tmp_path / "a.png")
    text = page.read_text()
    assert code == 0 and "old" not in text and "| base-to-new, new" in text and text.endswith("<!-- end -->\nafter\n")
    assert "-1.00" in text and (tmp_path / "a.png").stat().st_size > 1000
    code, _, err = call_main(agreement, "--results", tmp_path / "none")
    assert code == 1 and "has no average of 3 methods" in err


def test_an_order_that_one_set_turns_round_has_a_wide_interval(tmp_path):
    large = published("base2new", "base")[METHODS].rank()

    def accuracy(i, part, j):
        return 50 + (large.iloc[i] if j else -30 * large.iloc[i] / 4)

    results("base2new", ("base", "new"), accuracy).to_csv(tmp_path / "base2new.csv", index=False)
    found = compute(tmp_path)["base-to-new, base"]
    assert found["low"] == pytest.approx(-1) and found["high"] == pytest.approx(1)


def test_rows_by_hand():
    tables = {
        "base2new": results("base2new", ("base", "new"), lambda i, part, j: (80 if part == "base" else 60) + i + j),
        "xd": results("xd", ("target",), lambda i, part, j: 40 + i + j),
        "dg": results("dg", ("target",), lambda i, part, j: 30 + i + j, seeds=(1,)),
        "fewshot": results("fewshot", ("all",), lambda i, part, j: 20 + i, shots=4),
    }
    tables["xd"] = tables["xd"].iloc[:-1]  # one run less: the mean of the other seed
    found = row.rows(tables)
    assert list(found.index) == METHODS and list(found.columns) == ["seeds", *row.COLUMNS]
    more, half = (len(SUITE.targets)) / 2, (len(SUITE.targets) - 1) / 2
    one = found.loc["CoOp"]
    assert one["base"] == pytest.approx(81 + more) and one["new"] == pytest.approx(61 + more)
    assert one["H"] == pytest.approx(h(81 + more, 61 + more)) and one["xd"] == pytest.approx(41 + half)
    assert one["dg"] == pytest.approx(31 + (len(SUITE.shifts) - 1) / 2 - 0.5) and one["4 shots"] == 21
    assert np.isnan(one["1 shot"]) and one["seeds"] == 1  # of dg
    free, learns = (tables["fewshot"]["method"] == name for name in ("ZeroshotCLIP", "CoOp"))
    none = {**tables, "fewshot": tables["fewshot"].assign(shots=(~(free | learns)) * 4)}
    shots = row.rows(none)[row.COLUMNS[5:]]
    assert (shots.loc["ZeroshotCLIP"] == 20).all() and shots.loc["CoOp"].isna().all()  # 0 shots are all images to CoOp
    tables["dg"] = results("dg", ("target",), lambda i, part, j: 30 + i + j)
    assert row.rows(tables)["seeds"].to_list() == [2] * (len(METHODS) - 1) + [1]  # one run of xd is missing
    lacking = {**tables, "dg": tables["dg"][tables["dg"]["dataset"] != SUITE.shifts[0]]}
    assert row.rows(lacking)["dg"].isna().all()


def test_the_quick_row_is_one_seed_without_few_shots(monkeypatch, tmp_path, call_main):
    planned = []
    monkeypatch.setattr(row, "run_all", planned.extend)
    sets = len(SUITE.targets) + 1
    grid = 2 * sets + 1 + len(SUITE.targets) + 1 + len(SUITE.shifts)  # xd and dg each name the training on the source
    for words, count in ((["--quick"], grid), ([], 3 * (grid + len(row.FEWSHOT_SHOTS)))):
        planned.clear()
        code, out, _ = call_main(row, "CoOp", "--output", tmp_path, *words)
        assert code == 0 and len(planned) == count


def test_the_other_rows_are_those_of_the_committed_results(monkeypatch, tmp_path):
    monkeypatch.setattr(row, "PROJECT", tmp_path)
    (tmp_path / "results").mkdir()
    table = results("xd", ("target",), lambda i, part, j: 40 + i)
    table.to_csv(tmp_path / "results" / "xd.csv", index=False)
    found = row.gather(tmp_path / "output", "CoOp")
    assert set(found["xd"]["method"]) == {*METHODS} - {"CoOp"} and found["dg"].empty
    assert list(row.rows(found).index) == ["ZeroshotCLIP", "CoCoOp", "MaPLe"]
