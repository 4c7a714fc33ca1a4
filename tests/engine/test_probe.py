"""A small plugin prints on this engine, line by line, what it prints on Dassl 0.6.3."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden import probe, recipe

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    recipe.eurosat_tree(str(folder), 1)
    return str(folder)


def fixed_lines(text):
    """The lines that are the same everywhere: without times and remaining time."""
    lines = [line for line in text.splitlines() if line.startswith(("epoch [", "* "))]
    return [re.sub(r" time \S+ \(\S+\) data \S+ \(\S+\)| eta .*", "", line) for line in lines]


def assert_same(text, case):
    ours = fixed_lines(text)
    theirs = (GOLDEN / "runs" / f"probe-{case}.log").read_text().splitlines()
    assert [NUMBER.sub("#", line) for line in ours] == [NUMBER.sub("#", line) for line in theirs]
    for mine, wanted in zip(ours, theirs):
        numbers = [float(x) for x in NUMBER.findall(mine)]
        assert numbers == pytest.approx([float(x) for x in NUMBER.findall(wanted)], rel=2e-3), wanted


@pytest.mark.parametrize("case", sorted(set(probe.CASES) - {"sgd-cosine"}))
def test_probe_prints_what_it_prints_on_dassl(case, root, tmp_path):
    probe.main(case, root, str(tmp_path))
    assert_same((tmp_path / "log.txt").read_text(), case)


def test_probe_as_a_program(root, tmp_path):
    command = [sys.executable, str(GOLDEN / "probe.py"), "sgd-cosine", root, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    log = (tmp_path / "log.txt").read_text()
    assert_same(log, "sgd-cosine")
    assert run.stdout == log
    assert "it/s" not in run.stderr  # no progress bar where stderr is no terminal
