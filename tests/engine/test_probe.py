"""A small plugin prints on this engine, line by line, what it prints on Dassl 0.6.3."""

import re
import subprocess
import sys

import pytest

from tests.golden import probe
from tests.reference.run_logs import RUNS, fixed_lines, golden_root

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return golden_root(tmp_path_factory)


def assert_same(text, case):
    ours = fixed_lines(text)
    theirs = (RUNS / f"probe-{case}.log").read_text().splitlines()
    assert [NUMBER.sub("#", line) for line in ours] == [NUMBER.sub("#", line) for line in theirs]
    for mine, wanted in zip(ours, theirs):
        numbers = [float(x) for x in NUMBER.findall(mine)]
        assert numbers == pytest.approx([float(x) for x in NUMBER.findall(wanted)], rel=2e-3), wanted


@pytest.mark.parametrize("case", sorted(set(probe.CASES) - {"sgd-cosine"}))
def test_probe_prints_what_it_prints_on_dassl(case, root, tmp_path):
    probe.main(case, root, str(tmp_path))
    assert_same((tmp_path / "log.txt").read_text(), case)


@pytest.mark.slow
def test_probe_as_a_program(root, tmp_path):
    command = [sys.executable, probe.__file__, "sgd-cosine", root, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    log = (tmp_path / "log.txt").read_text()
    assert_same(log, "sgd-cosine")
    assert run.stdout == log
    assert "it/s" not in run.stderr  # no progress bar where stderr is no terminal
