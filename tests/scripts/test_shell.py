"""The shell scripts: from any folder, with names of any letters, interrupted, and with readers that go away."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from experiments.runs import PROJECT


@pytest.mark.parametrize(
    "script, words", [("xd", "CoOp"), ("verify", "my;data --tuned CoOp"), ("verify", "--tuned CoOp"), ("verify", "")]
)
def test_scripts_take_relative_paths_from_where_they_are_started(script, words, tmp_path):
    """Also where CDPATH would lead ``cd scripts/..`` elsewhere."""
    python, here = tmp_path / "python", tmp_path / "my | place"
    python.write_text('#!/bin/sh\necho "$PWD"; echo "$DATA"; echo "$OUTPUT"; echo "$@"\n')
    python.chmod(0o755)
    (tmp_path / "scripts").mkdir()
    here.mkdir()
    env = {**os.environ, "PYTHON": str(python), "DATA": "my data", "OUTPUT": "/tmp/out", "CDPATH": str(tmp_path)}

    def call(path, cwd):
        done = subprocess.run([path, *words.split()], cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done
        return done.stdout.splitlines()

    place, data, output, shown = call(PROJECT / "scripts" / f"{script}.sh", here)
    assert (place, data, output) == (str(PROJECT), f"{here}/my data", "/tmp/out")
    assert shown.endswith(words.replace("my;data", f"{here}/my;data"))
    place, data, *_ = call(f"scripts/{script}.sh", PROJECT)
    assert (place, data) == (str(PROJECT), "my data")


@pytest.mark.slow
def test_an_interrupted_setup_is_made_again(tmp_path):
    (tmp_path / "scripts").mkdir()
    shutil.copy(PROJECT / "scripts" / "setup.sh", tmp_path / "scripts")
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    stop = tmp_path / "python"
    stop.write_text(f'#!/bin/sh\nfor word; do [ "$word" = .venv ] && kill -9 $PPID; done\nexec {sys.executable} "$@"\n')
    stop.chmod(0o755)

    def setup(python, **env):
        words = ["bash", tmp_path / "scripts" / "setup.sh"]
        env = {"PATH": os.environ["PATH"], "PYTHON": python, **env}
        return subprocess.run(words, env=env, capture_output=True, text=True)

    found = setup(sys.executable)
    assert found.returncode == 1 and found.stderr.startswith("setup: there is no home folder"), found
    key = f"py{sys.version_info[0]}.{sys.version_info[1]}-{hashlib.sha256(b'').hexdigest()[:12]}"
    base = tmp_path / "o'brien" / "align-clip" / key
    base.mkdir(parents=True)
    (base / "complete").touch()
    (base / "bin").mkdir()
    (base / "bin" / "python").symlink_to(sys.executable)
    home = {"XDG_CACHE_HOME": str(tmp_path / "o'brien")}
    assert setup(str(stop), **home).returncode == -9 and (tmp_path / ".venv").is_dir()
    found = setup(sys.executable, **home)
    assert ".venv is yours" not in found.stderr and "did not install" in found.stderr, found
    (packages,) = (tmp_path / ".venv").rglob("shared-packages.pth")
    exec(packages.read_text())  # as Python does


def test_reproduce_writes_the_table_though_nobody_reads_it(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncase $2 in *sweep) ;; *) yes table | head -n 20000;; esac\n")
    python.chmod(0o755)
    env = {**os.environ, "PYTHON": str(python), "OUTPUT": str(tmp_path / "out")}
    words = f"{PROJECT}/scripts/reproduce.sh xd CoOp | head -n 1"
    run = subprocess.run(["bash", "-c", words], env=env, capture_output=True, text=True)
    assert run.stdout == "table\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["xd.csv", "xd.md"]
