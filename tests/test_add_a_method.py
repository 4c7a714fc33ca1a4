"""docs/add-a-method.md, run: its code is a plugin that trains, saves, evaluates and refuses wrong settings."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PAGE = (PROJECT / "docs" / "add-a-method.md").read_text()


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.S)[1]


def commands() -> list[list[str]]:
    """The commands of the page as words."""
    script = re.findall(r"```\n(python .*?)```", PAGE, re.S)[0].replace("\\\n", " ")
    return [shlex.split(line) for line in script.splitlines() if line.strip()]


def protocol() -> list[str]:
    """The page's shell script, as the Python command behind it."""
    words = shlex.split(re.search(r"^scripts/(\w+)\.sh (.*)$", PAGE, re.M)[2])
    return ["python", "-m", "experiments.protocols", "base2new", *words]


@pytest.fixture
def run(tmp_path):
    """Write the page's files and return a function that runs one of its commands, shortened by further words."""
    (tmp_path / "near_coop.py").write_text(block("python"))
    (tmp_path / "near_coop.yaml").write_text(block("yaml"))

    def call(words, *more):
        local = {"near_coop.py", "near_coop.yaml"}
        words = [str(tmp_path / word) if word in local or word.startswith("output/") else word for word in words[1:]]
        result = subprocess.run([sys.executable, *words, *more], cwd=PROJECT, capture_output=True, text=True)
        return result.returncode, result.stdout + result.stderr

    return call


@pytest.mark.slow
def test_the_page(run, tmp_path):
    train, test = commands()
    code, said = run(train, "OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "2")
    assert code == 0, said
    results = json.loads((tmp_path / "output/near_coop/results.json").read_text())
    assert results["method"] == "NearCoOp" and results["config"]["TRAINER"]["NEARCOOP"]["WEIGHT"] == 8.0
    code, said = run(test)
    assert code == 0, said
    assert "results.json" in {path.name for path in (tmp_path / "output/near_coop_new").iterdir()}
    code, said = run(protocol(), "--dry-run")
    assert code == 0 and said.count("to do  python train.py") == 6 and said.count("--plugin") == 6, said
    code, said = run(train, "TRAINER.NEARCOOP.WEIGHT", "-1.0", "DATASET.NUM_SHOTS", "2")
    assert code == 1 and "TRAINER.NEARCOOP.WEIGHT is -1.0; allowed: 0 or more" in said


def test_it_is_as_short_as_the_page_says():
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 50
