"""Intervals and paired tests on made-up predictions, against closed forms and full enumeration."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from experiments import results, significance
from experiments.collect import read
from experiments.pictures import draw_intervals
from experiments.significance import bootstrap, columns_of, compare, correctness, swap_test
from prompting.explain.style import MORE, MUTED
from tests.reference.run_trees import write_result
from trainers.record.files import file_hash

KEY = ("mini_food", "target")


def predictions(folder, right, names="abcdefgh"):
    write_result(folder, 100 * float(np.mean(right)), folder.parts[-3])
    table = {"path": [f"{name}.png" for name in names[: len(right)]], "label": 0, "correct": right}
    pd.DataFrame(table).to_csv(folder / "predictions.csv", index=False)


def run_folder(root, method, seed, dataset="mini_food", part="target"):
    place = {"target": "xd/test", "base": "base2new/train_base", "new": "base2new/test_new"}[part]
    return root / place / dataset / "shots_16" / method / "mini" / f"seed{seed}"


def test_the_spread_of_an_accuracy_is_the_binomial_one():
    right = {KEY: np.r_[np.ones(90), np.zeros(210)][:, None]}
    drawn = bootstrap(right, 4000)["accuracy"][:, 0]
    assert drawn.mean() == pytest.approx(30, abs=0.3)
    assert drawn.std() == pytest.approx(100 * np.sqrt(0.3 * 0.7 / 300), rel=0.1)


def test_each_data_set_has_the_same_weight_and_h_is_that_of_the_averages():
    groups = {("a", "base"): np.ones((10, 1)), ("b", "base"): np.zeros((1000, 1)), ("a", "new"): np.ones((5, 1)),
              ("b", "new"): np.full((5, 1), 0.5)}  # fmt: skip
    found = columns_of({key: right.mean(0) for key, right in groups.items()})
    assert [float(found[name][0]) for name in ("base", "new", "H")] == [50, 75, pytest.approx(2 * 50 * 75 / 125)]


def test_the_paired_test_by_enumeration():
    rng = np.random.default_rng(3)
    groups = {("a", "base"): rng.integers(0, 2, (6, 2)).astype(float), ("a", "new"): rng.integers(0, 2, (5, 2)) * 1.0}
    groups["a", "base"][:4] = [1, 0]
    found = swap_test(groups, 0, 1, 6000)

    def differences(swaps):
        parts = np.split(np.array(swaps, dtype=bool)[:, None], [6])
        base, new = (np.where(part, rows[:, ::-1], rows).mean(0) for rows, part in zip(groups.values(), parts))
        h = [2 * b * n / (b + n) if b + n else 0 for b, n in zip(base, new)]
        return [abs(one - other) for one, other in (base, new, h)]

    every = np.array([differences(swaps) for swaps in product((0, 1), repeat=11)])
    exact = (every >= every[0] - 1e-9).mean(0)  # the first has no swap
    assert [found[name] for name in ("base", "new", "H")] == pytest.approx(list(exact), abs=0.03)


def test_a_clear_difference_is_found_and_an_equal_method_is_not():
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.5).astype(float)
    better = np.maximum(base, rng.random(400) < 0.2)
    table = compare({KEY: np.stack([base, base, better], 1)}, ["CoOp", "PLOT", "ALIGN"], "CoOp").set_index("method")
    assert table.loc["PLOT", "p"] == 1 and table.loc["PLOT", "difference"] == 0
    assert table.loc["ALIGN", "p"] < 0.01 and table.loc["ALIGN", "p"] <= table.loc["ALIGN", "q"] < 0.01
    assert table.loc["ALIGN", "from"] > 0 and np.isnan(table.loc["CoOp", "p"])
    assert (table["low"] < table["figure"]).all() and (table["figure"] < table["high"]).all()
    with pytest.raises(ValueError, match="reference is 'ALINE'"):
        compare({KEY: np.ones((2, 1))}, ["ALIGN"], "ALINE")


def test_from_runs_to_the_table(tmp_path, call_main):
    for method, first, second in (("CoOp", [1, 0, 0, 0], [1, 1, 0, 0]), ("ALIGN", [1, 1, 1, 0], [1, 1, 1, 1])):
        for seed, right in ((1, first), (2, second)):
            predictions(run_folder(tmp_path, method, seed), right)
    groups, methods = correctness(read(tmp_path, "xd")[0], "xd")
    assert methods == ["CoOp", "ALIGN"]
    assert groups[KEY].tolist() == [[1, 1], [0.5, 1], [0, 1], [0, 0.5]]
    code, out, _ = call_main(significance, tmp_path, "--table", "xd", "--format", "csv")
    rows = {line.split(",")[1]: line.split(",") for line in out.splitlines()[1:]}
    assert code == 0 and float(rows["ALIGN"][2]) == 87.5 and float(rows["CoOp"][5]) == -50.0
    # a method that lacks a set, other images, and nothing at all
    predictions(run_folder(tmp_path, "CoOp", 1, "mini_tools"), [1])
    code, _, err = call_main(significance, tmp_path, "--table", "xd")
    assert code == 1 and "ALIGN has no run on mini_tools, target" in err
    predictions(run_folder(tmp_path, "ALIGN", 1, "mini_tools"), [1], "z")
    code, _, err = call_main(significance, tmp_path, "--table", "xd")
    assert code == 1 and "mini_tools, target were tested on different images" in err
    code, _, err = call_main(significance, tmp_path, "--table", "xd", "--shots", "4")
    assert code == 1 and "no runs of xd with 4 shots" in err


def test_answers_in_a_csv_file_are_those_of_the_runs(tmp_path, call_main):
    """Also of some methods only, beside runs of others; of a run in both, that of the folder counts."""
    rng = np.random.default_rng(0)
    for method, dataset, seed in product(("CoOp", "ALIGN", "MaPLe"), ("mini_food", "mini_tools"), (1, 2)):
        folder = run_folder(tmp_path / method, method, seed, dataset)
        predictions(folder, rng.integers(0, 2, 8), rng.permutation([*"abcdefgh"]))  # in any order
    file, every = tmp_path / "xd.csv", [tmp_path / method for method in ("CoOp", "ALIGN", "MaPLe")]
    for folder in every[1:]:
        results.add(folder, "xd", file)
    words = ("--table", "xd", "--format", "csv")
    code, expected, _ = call_main(significance, *every, *words)
    assert code == 0 and expected.count("accuracy,") == 3
    assert call_main(significance, every[0], file, *words)[1] == expected
    predictions(run_folder(tmp_path / "CoOp", "ALIGN", 1), [0] * 8)
    assert call_main(significance, every[0], file, *words)[1] != expected
    assert call_main(significance, file, every[0], *words)[1] == expected
    table, no_answers = pd.read_csv(file, dtype=str), "no runs of xd with 16 shots and the answers to their images"
    for first, message in (("2", "0 or 1 for each image"), ("0110", "tested on different images")):
        table.assign(correct=[first, *table["correct"][1:]]).to_csv(tmp_path / "bad.csv", index=False)
        code, _, err = call_main(significance, tmp_path / "bad.csv", *words)
        assert code == 1 and message in err, err
    table.assign(correct=["", *table["correct"][1:]]).to_csv(tmp_path / "one.csv", index=False)
    code, out, err = call_main(significance, tmp_path / "one.csv", *words)
    assert code == 0 and out and "1 of 8 runs have no answers" in err
    table.drop(columns="correct").to_csv(tmp_path / "old.csv", index=False)
    code, _, err = call_main(significance, tmp_path / "old.csv", *words)
    assert code == 1 and no_answers in err
    results.add(file, "xd", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == file.read_text()
    (run_folder(every[0], "CoOp", 2) / "predictions.csv").unlink()
    code, _, err = call_main(significance, *every, *words)
    assert code == 1 and "CoOp/mini/seed2 has no predictions.csv" in err


def test_the_figure_has_the_order_of_h_and_colours_what_differs(tmp_path, call_main):
    """One method is clearly better, one is worse by chance, one is far away."""
    rng = np.random.default_rng(3)
    right = {"CoOp": 0.5, "MaPLe": 0.7, "KgCoOp": 0.49, "ProDA": 0.0}
    groups = {("mini_food", part): np.stack([rng.random(400) < p for p in right.values()], 1) * 1.0
              for part in ("base", "new")}  # fmt: skip
    table = compare(groups, list(right), "CoOp")
    figure = draw_intervals(table, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert [panel.get_title("left").split(":")[0] for panel in figure.axes] == ["base", "new", "H"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "ProDA" and names[3] == "MaPLe" and {*names} == {*right}
    h = table[table["column"] == "H"].set_index("method")
    dots = {dot.get_ydata()[0]: dot for dot in figure.axes[2].lines if dot.get_marker() == "o"}
    assert dots[3].get_xdata()[0] == h.loc["MaPLe", "difference"] and dots[3].get_color() == MORE
    assert [dots[y].get_color() for y in (1, 2)] == [MUTED, MUTED]
    place = run_folder(tmp_path, "CoOp", 1)
    predictions(place, [1, 0, 1])
    words = (tmp_path, "--table", "xd", "--reference", "CoOp", "--figure", tmp_path / "b.png")
    code, _, err = call_main(significance, *words)
    assert code == 1 and "CoOp is the only method found" in err and not (tmp_path / "b.png").exists()


def test_predictions_of_another_evaluation_are_refused(tmp_path):
    folder = run_folder(tmp_path, "ALIGN", 1)
    predictions(folder, [1, 0, 1])
    write_result(folder, 66.7, "ALIGN", files={"predictions.csv": file_hash(folder / "predictions.csv")})
    runs, _ = read(tmp_path, "xd")
    assert correctness(runs, "xd")[0][KEY].tolist() == [[1], [0], [1]]
    text = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(text[: text.index("c.png")])
    with pytest.raises(ValueError, match="predictions.csv is damaged, was edited, or is of another evaluation"):
        correctness(runs, "xd")
