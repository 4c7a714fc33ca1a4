"""Tables from fabricated runs, against sums by hand; and the published figures against each other."""

from __future__ import annotations

import csv
import io
import shutil
from functools import partial
from statistics import mean

import pandas as pd
import pytest

from experiments import results, tables
from experiments.collect import RunResult
from experiments.curves import draw
from experiments.protocols import PROTOCOLS, SUITES
from experiments.runs import PROJECT
from experiments.tables import FIGURES, PUBLISHED, TableBuilder
from tests.reference.run_trees import LOG_06, LOG_TEST, base2new_tree, write_log, write_result

PAPER = SUITES["all"]
METHODS = ["ZeroshotCLIP", "CoOp", "PLOT", "MaPLe", "ALIGN"]


@pytest.fixture
def show(call_main):
    return partial(call_main, tables)


def read_csv(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    return {(row["table"], row["method"], row["column"]): row for row in rows}


@pytest.fixture
def two_sets(tmp_path):
    """ALIGN and MaPLe on two data sets of the mini suite, seeds 1 and 2; one run of MaPLe is missing."""
    values = {}
    for i, method in enumerate(("ALIGN", "MaPLe")):
        for j, dataset in enumerate(("mini_source", "mini_food")):
            for seed in (1, 2):
                values[method, dataset, seed] = (80 + i + 2 * j + seed, 60 - 3 * i + j + 2 * seed)
    values["MaPLe", "mini_food", 2] = (values["MaPLe", "mini_food", 2][0], None)
    base2new_tree(tmp_path, values, "mini")
    return tmp_path, values


def test_base2new_is_what_one_gets_by_hand(two_sets, show):
    root, values = two_sets
    words = ("--table", "base2new", "--datasets", "mini_source", "mini_food", "--format", "csv")
    code, out, err = show(root, *words)
    assert code == 0
    rows = read_csv(out)
    for method in ("ALIGN", "MaPLe"):
        pairs = [values[method, "mini_source", seed] for seed in (1, 2)]
        h = [2 * b * n / (b + n) for b, n in pairs]
        row = rows["mini_source", method, "H"]
        assert float(row["mean"]) == pytest.approx(sum(h) / 2)
        assert float(row["std"]) == pytest.approx(abs(h[0] - h[1]) / 2)  # of two values, population
        assert row["seeds"] == "1 2" and row["published"] == ""
    align = {(d, s): values["ALIGN", d, s] for d in ("mini_source", "mini_food") for s in (1, 2)}
    base = [(align["mini_source", s][0] + align["mini_food", s][0]) / 2 for s in (1, 2)]
    new = [(align["mini_source", s][1] + align["mini_food", s][1]) / 2 for s in (1, 2)]
    assert float(rows["average", "ALIGN", "base"]["mean"]) == pytest.approx(sum(base) / 2)
    assert float(rows["average", "ALIGN", "H"]["mean"]) == pytest.approx(
        sum(2 * b * n / (b + n) for b, n in zip(base, new)) / 2
    )
    assert rows["average", "MaPLe", "new"]["seeds"] == "1"  # the seed that no data set lacks
    assert "MaPLe, mini_food, new: seed 2" in err and err.count("missing") == 1


def test_marks_and_missing_runs_in_every_format(two_sets, show):
    root, _ = two_sets
    _, terminal, _ = show(root, "--table", "base2new", "--datasets", "mini_source")
    lines = [line.split() for line in terminal.splitlines()]
    assert ["ALIGN", "81.50+", "±", "0.50", "63.00*", "±", "1.00", "71.06*", "±", "0.83"] in lines
    assert ["MaPLe", "82.50*", "±", "0.50", "60.00+", "±", "1.00", "69.47+", "±", "0.85"] in lines
    assert "published" not in terminal  # nothing is published on the mini suite
    _, markdown, _ = show(root, "--table", "base2new", "--format", "markdown", "--seeds", "1", "2", "3")
    assert "**82.50** ± 0.50" in markdown and "<u>81.50</u> ± 0.50" in markdown
    assert "Missing: MaPLe, mini_food, base: seed 3" in markdown
    assert "Missing: MaPLe, mini_food, new: seed 2, 3" in markdown
    assert "Missing: ALIGN, mini_digits, base, new: seed 1, 2, 3" in markdown  # two of a suite: all of it is expected
    _, latex, _ = show(root, "--table", "base2new", "--format", "latex", "--datasets", "mini_source")
    assert r"\textbf{82.50} $\pm$ 0.50" in latex and r"% mini_source" in latex and latex.count("tabular") == 2


def test_published_figures_are_next_to_ours(tmp_path, show):
    values = {("MaPLe", "eurosat", seed): (94.0 + seed, 73.0) for seed in (1, 2, 3)}
    values |= {("PLOT", "eurosat", 1): (90.0, 70.0), ("CoOp", "eurosat", 1): (92.0, 54.0)}
    base2new_tree(tmp_path, values)
    rn50 = tmp_path / "base2new/train_base/eurosat/shots_16/CoOp/vit_b16_base2new/seed1"
    write_result(rn50, 92.0, "CoOp", backbone="RN50")
    _, out, _ = show(tmp_path, "--table", "base2new", "--format", "csv")
    rows = read_csv(out)
    maple = rows["eurosat", "MaPLe", "base"]
    assert float(maple["published"]) == 94.07 and float(maple["difference"]) == pytest.approx(96.0 - 94.07)
    assert maple["source"]
    assert rows["eurosat", "PLOT", "base"]["published"] == ""  # none is known
    assert rows["eurosat", "CoOp", "base"]["published"] == ""  # published for another backbone
    _, out, _ = show(tmp_path, "--table", "base2new")
    line = next(line.split() for line in out.splitlines() if line.startswith("MaPLe"))
    assert line[1:6] == ["96.00*", "±", "0.82", "94.07", "+1.93"]
    assert next(line for line in out.splitlines() if line.startswith("PLOT")).split()[2:4] == ["-", "-"]


def test_the_seeds_asked_for_are_those_of_the_table(two_sets, show):
    root, values = two_sets
    words = ("--table", "base2new", "--datasets", "mini_source", "--format", "csv", "--seeds", "2")
    rows = read_csv(show(root, *words)[1])
    row = rows["mini_source", "ALIGN", "base"]
    assert row["seeds"] == "2" and float(row["mean"]) == values["ALIGN", "mini_source", 2][0]
    _, _, err = show(root, *words, "3")
    assert err.count("ALIGN, mini_source, base, new: seed 3") == 1


@pytest.mark.parametrize("table, part", [("xd", "targets"), ("dg", "shifts")])
def test_transfer_tables(table, part, tmp_path, show):
    targets = getattr(PAPER, part)
    write_result(tmp_path / "xd/train/imagenet/shots_16/MaPLe/c/seed1", 70.72, "MaPLe")
    for i, name in enumerate(targets):
        write_result(tmp_path / f"{table}/test/{name}/shots_16/MaPLe/c/seed1", 50.0 + i, "MaPLe")
    _, out, _ = show(tmp_path, "--table", table, "--format", "csv")
    rows = {key[2]: row for key, row in read_csv(out).items()}
    assert list(rows) == ["imagenet", *targets, "average"]
    assert float(rows["average"]["mean"]) == pytest.approx(mean(50 + i for i in range(len(targets))))
    assert float(rows["imagenet"]["difference"]) == pytest.approx(0)
    assert float(rows["average"]["published"]) == {"xd": 66.30, "dg": 60.26}[table]
    _, out, _ = show(tmp_path, "--table", table)
    assert "(published)" in out and "(difference)" in out and "+0.00" in out


def test_logs_of_others_go_into_the_same_table(tmp_path, show):
    for seed, accuracy in ((1, 71.0), (2, 72.0)):
        write_log(tmp_path / f"imagenet/CoCoOp/c_16shots/seed{seed}", accuracy, LOG_06)
        for name in PAPER.targets:
            write_log(tmp_path / f"evaluation/CoCoOp/c_16shots/{name}/seed{seed}", accuracy - 10, LOG_TEST)
    write_result(tmp_path / "xd/train/imagenet/shots_16/ALIGN/c/seed1", 70.0)
    _, out, _ = show(tmp_path / ".", "--table", "xd", "--format", "csv")
    assert {key[1] for key in read_csv(out)} == {"ALIGN"}  # our own folder goes first
    (tmp_path / "xd").rename(tmp_path / "ours")
    _, out, _ = show(tmp_path, "--table", "xd", "--format", "csv")
    rows = {key[2]: row for key, row in read_csv(out).items() if key[1] == "CoCoOp"}
    assert float(rows["imagenet"]["mean"]) == 71.5 and float(rows["average"]["mean"]) == 61.5
    assert float(rows["dtd"]["published"]) == 45.73


def test_fewshot_table_and_picture(tmp_path, show):
    write_result(tmp_path / "fewshot/mini_source/shots_0/ZeroshotCLIP/mini/seed1", 40.0, "ZeroshotCLIP")
    for shots in (1, 2, 16):
        for seed in (1, 2):
            for name in ("mini_source", "mini_food"):
                folder = tmp_path / f"fewshot/{name}/shots_{shots}/ALIGN/mini/seed{seed}"
                write_result(folder, 50.0 + shots + seed)
    picture = tmp_path / "curves.png"
    datasets = ("--datasets", "mini_source", "mini_food")
    code, out, err = show(tmp_path, "--table", "fewshot", "--format", "csv", "--plot", picture, *datasets)
    assert code == 0, err
    rows = read_csv(out)
    assert float(rows["2 shots", "ALIGN", "average"]["mean"]) == 53.5
    assert float(rows["0 shots", "ZeroshotCLIP", "mini_source"]["mean"]) == 40.0
    assert ("1 shot", "ZeroshotCLIP", "mini_source") not in rows
    assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    "names", [["mini_source"], ["mini_source", "mini_food"], list(SUITES["mini"].datasets("fewshot"))]
)
def test_one_panel_a_data_set_and_one_for_the_average_of_several(names, tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    found = [
        RunResult(method, name, "all", shots, 1, "mini", 50.0 + shots, tmp_path)
        for method in METHODS
        for name in names
        for shots in ((0,) if method == "ZeroshotCLIP" else (1, 2))
    ]
    monkeypatch.setattr(plt, "close", lambda figure: None)
    cells = TableBuilder("fewshot", pd.DataFrame(found), names).build()
    draw(cells.assign(shots=cells["table"].str.split().str[0].astype(int)), tmp_path / "curves.png")
    figure = plt.gcf()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [*(["average"] if len(names) > 1 else []), *names]
    assert all(len(axes.lines) == len(METHODS) for axes in shown)
    points = {line.get_label(): line.get_xydata().tolist() for line in shown[0].lines}
    assert points["ALIGN"] == [[1, 51], [2, 52]] and points["ZeroshotCLIP"] == [[0, 50]]
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert [text.get_text() for text in legend.get_texts()] == METHODS
    assert box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0  # inside the picture


def test_a_single_data_set_has_its_shots_side_by_side(tmp_path, show):
    for method, shots in (("ZeroshotCLIP", 0), ("ALIGN", 1), ("ALIGN", 4), ("CoOp", 1)):
        write_result(tmp_path / f"fewshot/dtd/shots_{shots}/{method}/c/seed1", 50.0 + shots, method)
    words = ("--table", "fewshot")
    code, out, err = show(tmp_path, *words)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and out.startswith("dtd\n"), err
    assert ["method", "0", "shots", "published", "difference"] == lines[2][:5]
    assert lines[4] == ["ZeroshotCLIP", "50.00", *"--------"] and lines[5][-3:] == ["-", "-", "-"]
    assert "Missing: CoOp, 4 shots, dtd: seed 1" in out
    rows = read_csv(show(tmp_path, *words, "--format", "csv")[1])
    assert float(rows["4 shots", "ALIGN", "dtd"]["mean"]) == 54


def test_what_should_be_there_can_be_said(tmp_path, show):
    for method in ("ALIGN", "CoOp"):
        write_result(tmp_path / f"fewshot/dtd/shots_1/{method}/c/seed1", 50.0, method)
    code, out, _ = show(tmp_path, "--table", "fewshot", "--methods", "ALIGN", "MaPLe", "--shots", "1", "2")
    assert code == 0 and "CoOp" not in out
    missing = ["MaPLe, 1 shot, dtd: seed 1", "MaPLe, 2 shots, dtd: seed 1", "ALIGN, 2 shots, dtd: seed 1"]
    assert [line for line in out.splitlines() if "Missing" in line] == [f"Missing: {line}" for line in missing]
    code, _, err = show(tmp_path, "--table", "fewshot", "--methods", "MaPLE")
    assert code == 1 and "method is 'MaPLE'" in err and "did you mean 'MaPLe'?" in err and err.count("\n") == 1


def test_a_csv_file_gives_the_table_of_its_runs(two_sets, show, tmp_path):
    root, _ = two_sets
    words = ("--table", "base2new", "--datasets", "mini_source", "mini_food")
    file = tmp_path / "base2new.csv"
    assert results.add(root / "base2new", "base2new", file) == 15
    assert show(file, *words)[1] == show(root, *words)[1]
    base2new_tree(root, {("ALIGN", "mini_source", 1): (90.0, 90.0), ("UPT", "mini_source", 1): (70.0, 70.0)}, "mini")
    results.add(root / "base2new", "base2new", file)
    assert len(pd.read_csv(file)) == 17  # runs with the same keys are replaced
    write_result(root / "base2new/train_base/mini_source/shots_16/UPT/other/seed1", 1.0, "UPT")
    with pytest.raises(ValueError, match="two runs answer for UPT on mini_source"):
        results.add(root / "base2new", "base2new", file)
    shutil.rmtree(root / "base2new/train_base/mini_source/shots_16/UPT/other")
    assert show(file, *words)[1] == show(root, *words)[1]


def test_the_results_page_is_filled_from_the_csv_files(two_sets, monkeypatch):
    root, _ = two_sets
    monkeypatch.setattr(results, "FOLDER", root)
    results.add(root, "base2new", root / "base2new.csv")
    page = "text\n<!-- results: base2new -->\nold\n<!-- end -->\nmore\n"
    once = results.fill(page)
    assert "\nold\n" not in once and "#### mini_food" in once and "**82.50** ± 0.50 |" in once
    assert once.startswith("text\n") and once.endswith("<!-- end -->\nmore\n") and results.fill(once) == once


def test_committed_results_have_the_documented_columns():
    files = sorted((PROJECT / "results").glob("*.csv"))
    assert {file.stem for file in files} <= {*PROTOCOLS, "compare"}
    assert all(list(pd.read_csv(file)) == results.COLUMNS for file in files)


def test_mistakes_get_one_line(tmp_path, show):
    code, _, err = show(tmp_path / "none", "--table", "xd")
    assert code == 1 and err.startswith("tables: error: no folder") and err.count("\n") == 1
    write_log(tmp_path / "somewhere", 1.0, LOG_TEST)
    code, _, err = show(tmp_path, "--table", "xd")
    assert code == 1 and "no result for xd" in err and "does not say data set" in err
    code, _, err = show(tmp_path, "--table", "xd", "--plot", "x.png")
    assert code == 1 and "--plot draws few-shot curves" in err
    for config in ("one", "two"):
        base2new_tree(tmp_path, {("ALIGN", "dtd", 1): (1.0, 2.0)}, config)
    code, _, err = show(tmp_path, "--table", "base2new")
    assert code == 1 and "two runs answer for ALIGN on dtd" in err
    assert show(tmp_path, "--table", "base2new", "--configs", "one")[0] == 0


# ---- the published figures


EVERY = PUBLISHED["figures"]
MAIN = [f for f in EVERY if "variant" not in f]


def test_every_figure_has_a_source_and_stands_once():
    assert all(f["source"].strip() and all(0 < v < 100 for v in f["values"].values()) for f in EVERY)
    assert len(FIGURES) == len(MAIN)


@pytest.mark.parametrize(
    "figure", [f for f in MAIN if f["table"] == "base2new"], ids=lambda f: f"{f['method']}-{f['dataset']}"
)
def test_h_is_the_harmonic_mean(figure):
    of = figure["values"]
    assert of["H"] == pytest.approx(2 * of["base"] * of["new"] / (of["base"] + of["new"]), abs=0.011)


@pytest.mark.parametrize("method", ["CLIP", "CoOp", "CoCoOp", "KgCoOp", "MaPLe", "TCP", "PromptSRC"])
def test_means_over_the_data_sets_are_the_published_averages(method):
    of = {f["dataset"]: f["values"] for f in MAIN if (f["table"], f["method"]) == ("base2new", method)}
    assert set(of) == {"average", *PAPER.datasets("base2new")}
    for column in ("base", "new"):
        values = [of[dataset][column] for dataset in PAPER.datasets("base2new")]
        # MaPLe's and KgCoOp's cells are off by a few hundredths: secondary sources
        assert mean(values) == pytest.approx(of["average"][column], abs=0.04)


@pytest.mark.parametrize("table, part, off", [("xd", "targets", 0.006), ("dg", "shifts", 0.016)])
def test_target_averages(table, part, off):
    for method in {f["method"] for f in MAIN if (f["table"], f["backbone"]) == (table, "ViT-B/16")}:
        of = {f["dataset"]: f["values"]["accuracy"] for f in MAIN
              if (f["table"], f["method"], f["backbone"]) == (table, method, "ViT-B/16")}  # fmt: skip
        assert mean(of[name] for name in getattr(PAPER, part)) == pytest.approx(of["average"], abs=off), method


@pytest.mark.parametrize("table, backbone, shots", sorted({(f["table"], f["backbone"], f["shots"]) for f in MAIN}))
def test_every_figure_is_next_to_a_run(table, backbone, shots, tmp_path):
    """Of the method, with its name as a trainer, on all data sets of the table."""
    trainers = {known: name for name, known in reversed(PUBLISHED["names"].items())}
    wanted = [f for f in MAIN if (f["table"], f["backbone"], f["shots"]) == (table, backbone, shots)]
    parts = {"base2new": ("base", "new"), "fewshot": ("all",)}.get(table, ("target",))
    names = [(name, part) for name in PAPER.datasets(table) for part in parts]
    names += [] if table in ("base2new", "fewshot") else [(PAPER.source, "source")]
    found = [
        RunResult(trainers.get(method, method), name, part, shots, 1, "c", 50.0, tmp_path, backbone)
        for method in {f["method"] for f in wanted}
        for name, part in names
    ]
    cells = TableBuilder(table, pd.DataFrame(found), PAPER.datasets(table)).build()
    column = "table" if table == "base2new" else "column"
    shown = {(cell["method"], cell[column], cell["column"]): cell["published"] for _, cell in cells.iterrows()}
    for f in wanted:
        for key, value in f["values"].items():
            where = key if table == "base2new" else f["dataset"]
            assert shown[trainers.get(f["method"], f["method"]), f["dataset"], where] == value


def test_no_figure_of_align_is_made_up():
    assert not any(f["method"] in ("ALIGN", "MMP", "PLOT", "UPT") for f in EVERY)
