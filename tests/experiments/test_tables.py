"""Tables from fabricated runs, against sums by hand; and the published figures against each other."""

import io
import multiprocessing
import time
from functools import partial
from statistics import mean

import pandas as pd
import pytest

from experiments import compare, pictures, results, row, tables
from experiments.collect import RunResult
from experiments.pictures import draw_curves, draw_forms
from experiments.protocols import SUITES
from experiments.tables import PUBLISHED, TableBuilder
from tests.reference.run_trees import LOG_06, LOG_TEST, base2new_tree, write_log, write_result

PAPER = SUITES["all"]
METHODS = ["ZeroshotCLIP", "CoOp", "PLOT", "MaPLe", "ALIGN"]


@pytest.fixture
def show(call_main):
    return partial(call_main, tables)


def read_csv(text):
    return pd.read_csv(io.StringIO(text), dtype={"seeds": str}).set_index(["table", "method", "column"]).T


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
        h = [2 * b * n / (b + n) for b, n in (values[method, "mini_source", seed] for seed in (1, 2))]
        row = rows["mini_source", method, "H"]
        assert row["mean"] == pytest.approx(sum(h) / 2)
        assert row["std"] == pytest.approx(abs(h[0] - h[1]) / 2)  # of two values, population
        assert row["seeds"] == "1 2" and pd.isna(row["published"])
    pairs = [(values["ALIGN", "mini_source", seed], values["ALIGN", "mini_food", seed]) for seed in (1, 2)]
    base, new = ([mean(pair[half] for pair in both) for both in pairs] for half in (0, 1))
    assert rows["average", "ALIGN", "base"]["mean"] == pytest.approx(mean(base))
    assert rows["average", "ALIGN", "H"]["mean"] == pytest.approx(mean(2 * b * n / (b + n) for b, n in zip(base, new)))
    assert rows["average", "MaPLe", "new"]["seeds"] == "1"  # the seed that no data set lacks
    assert "MaPLe, mini_food, new: seed 2" in err and err.count("missing") == 1

    code, out, err = show(root, *words, "--seeds", "2", "3")
    row = read_csv(out)["mini_source", "ALIGN", "base"]
    assert row["seeds"] == "2" and row["mean"] == values["ALIGN", "mini_source", 2][0]
    assert err.count("ALIGN, mini_source, base, new: seed 3") == 1


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


def test_a_mean_in_the_middle_of_two_figures_has_the_mark_of_the_one_shown(tmp_path, show):
    """Python rounds 50.035 to 50.03, numpy to 50.04."""
    values = {("CoOp", "mini_source", 1): (50.03, 5), ("CoOp", "mini_source", 2): (50.04, 5)}
    base2new_tree(tmp_path, values | {("ALIGN", "mini_source", 1): (50.05, 5)})
    lines = {line.split()[0]: line.split() for line in show(tmp_path, "--table", "base2new")[1].splitlines() if line}
    assert [lines[name][1] for name in ("CoOp", "ALIGN")] == ["50.03+", "50.05*"]


def test_published_figures_are_next_to_ours(tmp_path, show):
    values = {("MaPLe", "eurosat", seed): (94.0 + seed, 73.0) for seed in (1, 2, 3)}
    values |= {("PLOT", "eurosat", 1): (90.0, 70.0), ("CoOp", "eurosat", 1): (92.0, 54.0)}
    base2new_tree(tmp_path, values)
    rn50 = tmp_path / "base2new/train_base/eurosat/shots_16/CoOp/vit_b16_base2new/seed1"
    write_result(rn50, 92.0, "CoOp", backbone="RN50")
    rows = read_csv(show(tmp_path, "--table", "base2new", "--format", "csv")[1])
    maple = rows["eurosat", "MaPLe", "base"]
    assert maple["published"] == 94.07 and maple["difference"] == pytest.approx(96.0 - 94.07) and maple["source"]
    assert pd.isna(rows["eurosat", "PLOT", "base"]["published"])  # none is known
    assert pd.isna(rows["eurosat", "CoOp", "base"]["published"])  # published for another backbone
    lines = {line.split()[0]: line.split() for line in show(tmp_path, "--table", "base2new")[1].splitlines() if line}
    assert lines["MaPLe"][1:6] == ["96.00*", "±", "0.82", "94.07", "+1.93"] and lines["PLOT"][2:4] == ["-", "-"]


@pytest.mark.parametrize("table, part", [("xd", "targets"), ("dg", "shifts")])
def test_transfer_tables(table, part, tmp_path, show):
    targets = getattr(PAPER, part)
    write_result(tmp_path / "xd/train/imagenet/shots_16/MaPLe/c/seed1", 70.72, "MaPLe")
    for i, name in enumerate(targets):
        write_result(tmp_path / f"{table}/test/{name}/shots_16/MaPLe/c/seed1", 50.0 + i, "MaPLe")
    rows = read_csv(show(tmp_path, "--table", table, "--format", "csv")[1]).droplevel([0, 1], axis=1)
    assert list(rows) == ["imagenet", *targets, "average"]
    assert rows["average"]["mean"] == pytest.approx(mean(50 + i for i in range(len(targets))))
    assert rows["imagenet"]["difference"] == pytest.approx(0)
    assert rows["average"]["published"] == {"xd": 66.30, "dg": 60.26}[table]
    _, out, _ = show(tmp_path, "--table", table)
    assert "(published)" in out and "(difference)" in out and "+0.00" in out


def test_logs_of_others_go_into_the_same_table(tmp_path, show):
    for seed, accuracy in ((1, 71.0), (2, 72.0)):
        write_log(tmp_path / f"imagenet/CoCoOp/c_16shots/seed{seed}", accuracy, LOG_06)
        for name in PAPER.targets:
            write_log(tmp_path / f"evaluation/CoCoOp/c_16shots/{name}/seed{seed}", accuracy - 10, LOG_TEST)
    write_result(tmp_path / "xd/train/imagenet/shots_16/ALIGN/c/seed1", 70.0)
    words = ("--table", "xd", "--format", "csv")
    assert set(read_csv(show(tmp_path, *words)[1]).columns.levels[1]) == {"ALIGN"}  # our own folder goes first
    (tmp_path / "xd").rename(tmp_path / "ours")
    rows = read_csv(show(tmp_path, *words)[1]).xs("CoCoOp", axis=1, level=1).droplevel(0, axis=1)
    assert rows["imagenet"]["mean"] == 71.5 and rows["average"]["mean"] == 61.5
    assert rows["dtd"]["published"] == 45.73


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
    assert rows["2 shots", "ALIGN", "average"]["mean"] == 53.5
    assert rows["0 shots", "ZeroshotCLIP", "mini_source"]["mean"] == 40.0
    assert ("1 shot", "ZeroshotCLIP", "mini_source") not in rows
    assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size > 10_000


@pytest.mark.parametrize("names", [["mini_source"], SUITES["mini"].datasets("fewshot")], ids=["one set", "seven sets"])
def test_one_panel_a_data_set_and_one_for_the_average_of_several(names, tmp_path):
    found = [
        RunResult(method, name, "all", shots, 1, "mini", 50.0 + shots, tmp_path)
        for method in METHODS
        for name in names
        for shots in ((0,) if method == "ZeroshotCLIP" else (1, 2))
    ]
    figure = draw_curves(TableBuilder("fewshot", pd.DataFrame(found), names).cells, tmp_path / "curves.png")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == [*(["average"] if len(names) > 1 else []), *names]
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

    code, out, _ = show(tmp_path, *words, "--methods", "ALIGN", "MaPLe", "--shots", "1", "2")
    assert code == 0 and "CoOp" not in out
    missing = ["MaPLe, 1 shot, dtd: seed 1", "ALIGN, 2 shots, dtd: seed 1", "MaPLe, 2 shots, dtd: seed 1"]
    assert sorted(line for line in out.splitlines() if "Missing" in line) == sorted(f"Missing: {x}" for x in missing)


def test_csv_files_give_the_tables_of_their_runs_and_fill_the_page(two_sets, show, tmp_path, monkeypatch):
    root, _ = two_sets
    words = ("--table", "base2new", "--datasets", "mini_source", "mini_food")
    file = tmp_path / "base2new.csv"
    assert results.add(root / "base2new", "base2new", file) == 15
    assert show(file, *words)[1] == show(root, *words)[1]
    base2new_tree(root, {("ALIGN", "mini_source", 1): (90.0, 90.0), ("UPT", "mini_source", 1): (70.0, 70.0)}, "mini")
    results.add(root / "base2new", "base2new", file)
    assert len(pd.read_csv(file)) == 17  # runs with the same keys are replaced
    assert show(file, *words)[1] == show(root, *words)[1]
    write_result(root / "base2new/train_base/mini_source/shots_16/UPT/other/seed1", 1.0, "UPT")
    with pytest.raises(ValueError, match="two runs of UPT on mini_source"):
        results.add(root / "base2new", "base2new", file)
    some, others = tmp_path / "some.csv", tmp_path / "others.csv"
    results.add(root, "base2new", some, ["ALIGN"], [1])
    assert set(zip(*(pd.read_csv(some)[name] for name in ("method", "seed")))) == {("ALIGN", 1)}
    results.add(root, "compare", others, ["ALIGN", "MaPLe"])
    assert set(pd.read_csv(others)["dataset"]) == {"mini_source"}
    assert len(set(pd.read_csv(others)["seed"])) > 1 and set(pd.read_csv(some)["dataset"]) > {"mini_source"}

    monkeypatch.setattr(results, "FOLDER", root)
    page = tmp_path / "page.md"
    page.write_text("text\n<!-- results: base2new -->\nold\n<!-- end -->\nmore\n")
    monkeypatch.setattr(results, "PAGE", page)
    assert results.main([]) == 0
    once = page.read_text()
    assert results.main([]) == 0
    assert "\nold\n" not in once and "#### mini_food" in once and "**86.00** ± 4.00 |" in once
    assert once.startswith("text\n") and once.endswith("<!-- end -->\nmore\n") and page.read_text() == once


TABLE = """\
method,dataset,part,shots,seed,accuracy,backbone,commit
ALIGN,mini_source,base,16,1,80.5,mini,61305e7
ALIGN,mini_source,new,16,1,60.5,mini,61305e7
"""


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("accuracy,", "percent,", "own.csv has no column 'accuracy'; it should have method, dataset, part"),
        (TABLE, "", "own.csv has no column 'method'"),
        (",", ";", "own.csv has no column 'method'"),
        ("backbone", "accuracy", "own.csv has the column 'accuracy' twice"),
        ("60.5", "", "own.csv, row 2: accuracy is nan; it should be a number from 0 to 100"),
        ("80.5", "805", "own.csv, row 1: accuracy is 805.0; it should be"),
        ("60.5", "high", "own.csv, row 2: accuracy is high; it should be"),
        ("ALIGN,mini_source,new", ",mini_source,new", "own.csv, row 2: method is nan; it should be text"),
        ("new,16,1", "new,16,", "own.csv, row 2: seed is nan; it should be a whole number"),
        ("mini,", "mini,0,", "own.csv: its lines have more cells than the header has columns"),
        ("new,16", 'new,"16', "own.csv cannot be read as CSV"),
    ],
)
def test_a_damaged_table_of_results_is_named(tmp_path, show, old, new, message):
    file = tmp_path / "own.csv"
    file.write_text(TABLE.replace(old, new))
    code, out, err = show(file, "--table", "base2new")
    assert code == 1 and not out and err.startswith(f"tables: error: {tmp_path}/{message}") and err.count("\n") == 1


def test_a_table_with_windows_line_ends_is_the_same(tmp_path, show):
    for name, content in {"a.csv": TABLE, "b.csv": "\ufeff" + TABLE.replace("\n", "\r\n")}.items():
        (tmp_path / name).write_bytes(content.encode())
    assert show(tmp_path / "a.csv", "--table", "base2new") == show(tmp_path / "b.csv", "--table", "base2new")
    base2new_tree(tmp_path, {("MaPLe", "mini_source", 1): (90.0, 90.0)}, "mini")
    results.add(tmp_path, "base2new", tmp_path / "a.csv")
    assert list(pd.read_csv(tmp_path / "a.csv", dtype=str)["commit"][:2]) == ["61305e7"] * 2


@pytest.mark.slow
def test_two_processes_that_add_results_lose_none(tmp_path, monkeypatch):
    for name in ("PROJECT", "FOLDER"):
        monkeypatch.setattr(results, name, tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "page.md")
    results.PAGE.touch()
    for seed in (1, 2, 3):
        base2new_tree(tmp_path / str(seed), {("ALIGN", "mini_source", seed): (90.0, 90.0)}, "mini")
    results.main(["--add", str(tmp_path / "3"), "base2new"])
    read = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *words, **more: (read(*words, **more), time.sleep(0.5))[0])
    fork = multiprocessing.get_context("fork")
    words = [(["--add", str(tmp_path / seed), "base2new"],) for seed in "12"]
    processes = [fork.Process(target=results.main, args=one) for one in words]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert set(read(tmp_path / "base2new.csv")["seed"]) == {1, 2, 3}


def test_mistakes_get_one_line(tmp_path, show):
    write_log(tmp_path / "somewhere", 1.0, LOG_TEST)
    for config in ("one", "two"):
        base2new_tree(tmp_path, {("ALIGN", "dtd", 1): (1.0, 2.0)}, config)
    for words, message in {
        ("xd",): "no result for xd",
        ("xd", "--plot", "x.png"): "--plot draws few-shot curves",
        ("base2new",): "two runs of ALIGN on dtd",
        ("base2new", "--methods", "MaPLE"): "did you mean 'MaPLe'?",
    }.items():
        code, _, err = show(tmp_path, "--table", *words)
        assert code == 1 and message in err, err
    assert show(tmp_path, "--table", "base2new", "--configs", "one")[0] == 0
    run = tmp_path / "fewshot/dtd/shots_2/CoOp/c/seed1"
    write_result(run, 1.0, "CoOp")
    code, _, err = show(run, "--table", "base2new")
    assert code == 1 and "no result for base2new" in err and "; found: dtd (all, 2 shots)" in err
    with pytest.raises(ValueError, match=r"no result for base2new .*found: dtd \(all, 2 shots\)"):
        results.add(run, "base2new", tmp_path / "base2new.csv")
    assert not (tmp_path / "base2new.csv").exists()


# ---- the published figures


EVERY = PUBLISHED["figures"]
MAIN = [f for f in EVERY if "variant" not in f]


def test_every_figure_has_a_source_and_none_of_align_is_made_up():
    for f in EVERY:
        assert f["source"].strip() and all(0 < v < 100 for v in f["values"].values())
        assert f["dataset"] in (*PAPER.datasets(f["table"]), PAPER.source, "average")
    assert not any(f["method"] in ("ALIGN", "MMP", "PLOT", "UPT") for f in EVERY)


def test_h_is_the_harmonic_mean():
    for figure in (f for f in MAIN if f["table"] == "base2new"):
        of = figure["values"]
        assert of["H"] == pytest.approx(2 * of["base"] * of["new"] / (of["base"] + of["new"]), abs=0.011), figure


@pytest.mark.parametrize(
    "table, rows, columns, off",
    [
        ("base2new", PAPER.datasets("base2new"), ("base", "new"), 0.006),
        ("xd", PAPER.targets, ("accuracy",), 0.006),
        ("dg", PAPER.shifts, ("accuracy",), 0.016),  # two of its averages were rounded down
    ],
)
def test_means_over_the_data_sets_are_the_stated_averages(table, rows, columns, off):
    """Of every method whose rows are all known; the mean of H is not an average that anyone states."""
    of: dict = {}
    for f in (f for f in MAIN if f["table"] == table):
        of.setdefault((f["method"], f["backbone"], f["shots"]), {})[f["dataset"]] = f["values"]
    of = {key: values for key, values in of.items() if {"average", *rows} <= {*values}}
    assert len(of) >= 5
    for key, values in of.items():
        for column in columns:
            found = mean(values[row][column] for row in rows)
            assert found == pytest.approx(values["average"][column], abs=off), (key, column)


def test_a_note_of_a_run_stands_below_the_table(tmp_path, show):
    """Once for all its data sets, also from a CSV file; a run without one says nothing."""
    for dataset in ("dtd", "eurosat", "sun397"):
        for folder in ("train_base", "test_new"):
            place = tmp_path / "base2new" / folder / dataset / "shots_16" / "CoPrompt" / "coprompt" / "seed1"
            write_result(place, 50.0, "CoPrompt", **({} if dataset == "sun397" else {"note": "other sentences"}))
    results.add(tmp_path, "base2new", tmp_path / "base2new.csv")
    for source in (tmp_path, tmp_path / "base2new.csv"):
        out = show(source, "--table", "base2new")[1]
        assert out.count("other sentences") == 1 and "CoPrompt on dtd, eurosat: other sentences." in out
    found = pd.read_csv(tmp_path / "base2new.csv")
    noted = found[found["dataset"] == "dtd"].assign(dataset=compare.DATASET, folder="", learned_parameters=1)
    assert compare.render(noted).endswith("|\n\nCoPrompt on mini_source: other sentences.")
    every = {"base2new": found, **{name: found.drop(columns="note") for name in ("xd", "dg", "fewshot")}}
    assert row.render(every).endswith("|\n\nCoPrompt on dtd, eurosat: other sentences.")


def test_the_forms_of_a_model_are_bars(tmp_path, call_main, monkeypatch):
    """Of an export that was not wholly measured: shares become percent, what is missing has no bar and no panel."""
    file, picture, drawn = tmp_path / "forms.csv", tmp_path / "forms.png", []
    file.write_text("name,size_mb,same_class,peak_mb,images_per_second\nfull model,1612.8,1.0,,2\nint8,90.54,0.97,,\n")
    monkeypatch.setattr(pictures, "draw_forms", lambda *args: drawn.append(draw_forms(*args)))
    assert call_main(pictures, file, picture, "--title", "Forms of a run")[:2] == (0, f"{picture}\n")
    panels = {axes.get_title("left"): axes for axes in drawn[0].axes}
    assert list(panels) == ["same answers (%)", "size (MB)", "images per second"] and picture.stat().st_size > 5000
    for title, labels in (("same answers (%)", ["100", "97.0"]), ("size (MB)", ["1,613", "90.5"])):
        assert [text.get_text() for text in panels[title].texts] == labels
    assert [bar.get_width() for bar in panels["size (MB)"].patches] == [1612.8, 90.54]
    assert [text.get_text() for text in panels["images per second"].texts][1] == ""
