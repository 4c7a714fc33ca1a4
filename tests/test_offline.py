"""Nothing asks the network unless a download was asked for: commands run with the sockets of all processes blocked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.reference.clip_states import vit_state

PROJECT = Path(__file__).resolve().parents[1]
MODULES = "train, datasets, trainers, prompting.methods, experiments.compare, experiments.sweep, experiments.tables"
BLOCK = """
import os, socket

def blocked(name):
    def call(*args, **kwargs):
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{name}{args[1:]}\\n")
        raise OSError("the network is blocked")
    return call

class Socket(socket.socket):
    def connect(self, address):
        return super().connect(address) if self.family == socket.AF_UNIX else blocked("connect")(self, address)

    def connect_ex(self, address):
        return super().connect_ex(address) if self.family == socket.AF_UNIX else blocked("connect_ex")(self, address)

socket.socket = Socket
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, blocked(name))
"""


@pytest.fixture
def offline(tmp_path):
    """Return a function that runs Python with these words: (finished process, what it asked of the network)."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCK)

    def run(*words):
        path = os.pathsep.join([str(tmp_path / "block"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "ASKED": str(tmp_path / "asked"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *map(str, words)], cwd=PROJECT, env=env, capture_output=True, text=True)
        asked = tmp_path / "asked"
        return done, asked.read_text() if asked.exists() else ""

    return run


def test_the_block_works(offline):
    done, asked = offline("-c", "import urllib.request; urllib.request.urlopen('http://localhost:9')")
    assert done.returncode == 1 and "the network is blocked" in done.stderr and asked


@pytest.mark.slow
def test_imports_and_a_training(offline, tmp_path):
    done, asked = offline("-c", f"import {MODULES}")
    assert (done.returncode, done.stderr, asked) == (0, "", "")
    torch.save(vit_state(patch=16, grid=4, vision_layers=2, text_layers=2), tmp_path / "tiny.pt")
    words = ["--root", tmp_path / "data", "--trainer", "ALIGN", "--backbone", tmp_path / "tiny.pt", "--output-dir"]
    words += [tmp_path / "run", "--dataset-config-file", "configs/datasets/mini_plants.yaml"]
    words += ["--config-file", "configs/trainers/ALIGN/mini.yaml", "DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1"]
    words += ["TRAINER.ALIGN.TEXT_PROMPT_DEPTH", "2", "TRAINER.ALIGN.VISION_PROMPT_DEPTH", "2"]
    done, asked = offline("train.py", *words)
    assert (done.returncode, asked) == (0, ""), done.stderr
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.long
def test_make_demo(offline, tmp_path):
    """The command of ``make demo``, with the images that it draws and the CLIP that comes with the project."""
    done, asked = offline("-m", "experiments.compare", "--root", tmp_path / "data", "--output", tmp_path / "demo")
    assert (done.returncode, asked) == (0, ""), done.stderr
    assert "ZeroshotCLIP" in done.stdout and (tmp_path / "demo" / "report.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["prompting.methods", "train"])
def test_a_user_without_a_name_and_home_folder(module, tmp_path):
    """As in a container that runs with a user's number that its list of users does not have."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef f(_): raise KeyError\npwd.getpwuid = pwd.getpwnam = f\n"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    code = f"import {module}, open_clip; open_clip.create_model = None; "
    code += "from prompting.clip import load_clip; load_clip('RN50', folder='/nowhere')"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=env, capture_output=True, text=True)
    assert "FileNotFoundError: no weights for RN50: not at /nowhere/RN50.pt" in done.stderr.splitlines()[-1]
