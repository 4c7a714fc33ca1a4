"""docs/add-a-method.md, run: its code is a plugin that trains, saves, evaluates and refuses wrong settings."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PAGE = (PROJECT / "docs" / "add-a-method.md").read_text()
CALLS = "import json, sys, train\nfor sys.argv in json.load(sys.stdin): print('exit code', train.main(), flush=True)"


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.S)[1]


@pytest.mark.slow
def test_the_page(tmp_path):
    (tmp_path / "near_coop.py").write_text(block("python"))
    (tmp_path / "near_coop.yaml").write_text(block("yaml"))
    script = re.findall(r"```bash\n(python .*?)```", PAGE, re.S)[0].replace("\\\n", " ")
    script = re.sub(r"(near_coop\.\w+|output/\w+)", rf"{tmp_path}/\1", script)
    train, test = (shlex.split(line)[1:] for line in script.splitlines() if line.strip())
    train += ["OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "2"]
    calls = json.dumps([train, test, [*train, "TRAINER.NEARCOOP.WEIGHT", "-1.0"]])
    done = subprocess.run([sys.executable, "-c", CALLS], input=calls, cwd=PROJECT, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert re.findall(r"exit code \d", said) == ["exit code 0", "exit code 0", "exit code 1"], said
    assert "TRAINER.NEARCOOP.WEIGHT is -1.0; allowed: 0 or more" in said
    trained, tested = (
        json.loads((tmp_path / f"output/{name}/results.json").read_text()) for name in ("near_coop", "near_coop_new")
    )
    assert trained["method"] == "NearCoOp" and trained["config"]["TRAINER"]["NEARCOOP"]["WEIGHT"] == 8.0
    assert tested["classes"] == "new" and tested["learned_sha256"] == trained["learned_sha256"]
    assert len([line for line in block("python").splitlines() if line.strip()]) <= 50  # as the page says


@pytest.mark.long
def test_the_protocol_of_the_page(tmp_path):
    (tmp_path / "near_coop.py").write_text(block("python"))
    (tmp_path / "near_coop.yaml").write_text(block("yaml"))
    script, words = re.search(r"^scripts/(\w+)\.sh (.*)$", PAGE, re.M).groups()
    words = shlex.split(words.replace("near_coop.", f"{tmp_path}/near_coop."))
    command = [sys.executable, "-m", "experiments.protocols", script, *words, "--dry-run", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("to do  python train.py")]
    assert len(lines) == 6 and all("--plugin" in line and "near_coop.yaml" in line for line in lines), done.stderr
