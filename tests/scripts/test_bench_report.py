"""The page of benchmarks says what the committed files say, and targets are met or not by their ratios."""

from __future__ import annotations

import json
import re

import pytest

from scripts.bench import report

SIZES = {"backbone": "x", "device": "cpu", "precision": "fp32", "threads": 2, "prompts": 4, "images": 4, "classes": 50}
MEASURED = {"positions": {"text": 764, "vision": 3184}, "flops": 1e12, "share_of_ceiling": 0.5, "ceiling_gflops": 80}


def step(path: str, seconds: float, peak: float, **other) -> dict:
    ours = {"max_memory_gb": 8.0, "predicted_gb": 2.5} if path == "ours" else {}
    return {
        **SIZES,
        **MEASURED,
        "path": path,
        "seconds": seconds,
        "peak_gb": peak,
        "peak_first_gb": peak,
        **ours,
        **other,
    }


def write(folder, kind: str, *results: dict) -> None:
    about = {"cpu": "y", "cores": 2, "capability": "z", "gpu": None, "python": "3", "versions": {"torch": "2"}}
    (folder / f"{kind}.json").write_text(json.dumps({"machine": about, "results": results}))


def row(folder, start: str) -> list[str]:
    return next(target.row() for target in report.targets(folder) if target.text.startswith(start))


def test_the_page_is_made_from_the_committed_files():
    page = report.PAGE.read_text()
    assert set(re.findall(r"<!-- bench: (\w+) -->", page)) == set(report.parts())
    assert report.filled(page) == page, "run `python -m scripts.bench.report --write`"


@pytest.mark.parametrize("seconds, word", [(50.0, "met"), (49.0, "**not met**")])
def test_a_target_is_met_by_the_ratio_of_its_own_case(tmp_path, seconds, word):
    other = [step(path, s, 1.0, classes=100) for path, s in (("ours", 1.0), ("naive", 500.0))]
    write(tmp_path, "step", step("ours", 10.0, 3.0), step("naive", seconds, 9.0), *other)
    start = "training step, K = 50, 8 GB allowed"
    assert row(tmp_path, f"{start}: at least 5")[1:] == [f"{seconds / 10:.2f}", word]
    assert row(tmp_path, f"{start}: at most 1/4")[1:] == ["3.00", "**not met**"]
    assert row(tmp_path, "training step, K = 100")[1:] == ["500", "met"]
    assert row(tmp_path, "evaluation, K = 50")[1:] == ["not measured", "-"]


def test_each_allowance_has_targets_of_its_own(tmp_path):
    less = step("ours", 20.0, 2.0, max_memory_gb=2.4)
    write(tmp_path, "step", step("ours", 10.0, 3.0), step("naive", 60.0, 9.0), less)
    found = {target.text: target.value for target in report.targets(tmp_path) if "K = 50" in target.text}
    values = [
        found[f"training step, K = 50, {most} GB allowed: at least 5 x faster than naive"] for most in ("8", "2.4")
    ]
    assert values == [6.0, 3.0]
    assert [row[7] for row in report.step_table(report.load("step", tmp_path)).rows] == [
        "8 / 2.50 / 3.00",
        "2.4 / 2.50 / 2.00",
    ]


def test_no_ratio_from_a_naive_run_that_failed_or_of_other_threads(tmp_path):
    failed = {**SIZES, "path": "naive", "threads": 0, "failed": "exit code -9 (killed)"}
    alone = [step("ours", 1.0, 1.0, prompts=1), step("naive", 9.0, 1.0, prompts=1, threads=1)]
    write(tmp_path, "step", step("ours", 10.0, 3.0), failed, *alone)
    rows = report.step_table(report.load("step", tmp_path)).rows
    assert [cells[5:7] for cells in rows] == [["exit code -9 (killed)", "-"], ["not run", "-"]]


def test_pot_is_beaten_at_every_size_or_not(tmp_path):
    case = {"rows": 198, "cols": 8, "problems": 3200, "device": "cpu", "threads": 2}
    rates = [(5, 2.0, 1.5), (100, 3.2, 0.9)]
    results = [
        {
            **case,
            "iterations": n,
            "solvers": {
                "ours": {"problems_per_second": 10},
                "plain batched loop": {"ours_is_faster_by": plain},
                "POT sinkhorn": {"ours_is_faster_by": pot},
            },
        }
        for n, plain, pot in rates
    ]
    write(tmp_path, "ot", *results)
    assert row(tmp_path, "transport, 198 x 8, 100")[1:] == ["3.20", "met"]
    assert row(tmp_path, "transport: ahead of POT")[1:] == ["0.90", "**not met**"]


def test_memory_of_a_thousand_classes_has_an_upper_bound(tmp_path):
    write(tmp_path, "step", step("ours", 60.0, 8.1, classes=1000))
    assert row(tmp_path, "training step, K = 1000")[1:] == ["8.10", "**not met**"]


def test_what_may_hold_more_says_nothing_of_it(tmp_path):
    more = step("ours", 40.0, 12.0, classes=1000, max_memory_gb=16.0, malloc={"MALLOC_TRIM_THRESHOLD_": "9"})
    write(tmp_path, "step", step("ours", 60.0, 7.9, classes=1000), more)
    assert row(tmp_path, "training step, K = 1000")[1:] == ["7.90", "met"]
    where = [cells[3] for cells in report.step_table(report.load("step", tmp_path)).rows]
    assert where == ["2 threads, fp32", "2 threads, fp32, MALLOC_ set"]


def test_a_ratio_is_of_one_file(tmp_path):
    """The naive path of another file is another run."""
    write(tmp_path, "step", step("ours", 10.0, 3.0))
    write(tmp_path, "step-others", step("naive", 70.0, 9.0), step("ours", 10.0, 3.0, max_memory_gb=2.0))
    found = {t.text: t.value for t in report.targets(tmp_path) if "5 x faster than naive" in t.text}
    assert list(found.values()) == [None, 7.0] and "8 GB" in next(iter(found))


def test_a_case_measured_twice_is_refused(tmp_path):
    write(tmp_path, "step", step("ours", 10.0, 3.0))
    write(tmp_path, "step-others", step("ours", 11.0, 3.0))
    with pytest.raises(ValueError, match="K = 50, M = N = 4, B = 4, ours: measured twice, in step.json and in step-o"):
        report.targets(tmp_path)


@pytest.mark.parametrize("value, word", [(1.0001, "met"), (1.0, "**not met**"), (0.999, "**not met**")])
def test_ahead_is_more_than_as_fast(value, word):
    assert report.Target("ahead", value, 1, beyond=True).row()[2] == word


def test_several_runs_show_their_range():
    assert report.timed(step("ours", 10.0, 3.0, repeats=3, fastest=9.5, slowest=11.0)) == "10.00 (9.50 to 11.00)"
    assert report.timed(step("ours", 10.0, 3.0, repeats=1, fastest=10.0, slowest=10.0)) == "10.00"


def test_shares_of_time_are_shown_where_they_were_measured(tmp_path):
    shares = {"products": 0.784, "attention": 0.098, "rest": 0.118}
    write(tmp_path, "step", step("ours", 10.0, 3.0, spent_on=shares), step("ours", 9.0, 3.0, classes=100))
    assert [cells[-1] for cells in report.step_table(report.load("step", tmp_path)).rows] == ["78 / 10 / 12", "-"]
