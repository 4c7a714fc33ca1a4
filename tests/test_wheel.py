"""The wheel that ``pip install .`` builds, in an environment with its stated dependencies and nothing else."""

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from tests.reference.clip_states import vit_state

PROJECT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")

# Run in the clean environment, outside the checkout: one image and three class names through ALIGN.
SCORE = """
import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

import open_clip
import torch
from PIL import Image

import prompting

assert prompting.__version__ == version("align-clip"), (prompting.__version__, version("align-clip"))
assert (Path(prompting.__file__).parent / "py.typed").is_file()
for name in ("dassl", "yacs", "trainers", "datasets", "experiments", "pandas"):
    assert importlib.util.find_spec(name) is None, f"{name} can be imported"

Image.effect_noise((20, 16), 60).convert("RGB").save("image.png")

from prompting.classifier import Classifier
from prompting.clip import input_size
from prompting.run_folder import ModelSettings
from prompting.methods.align import ALIGN, ALIGNOptions

model = ALIGN("tiny.pt", ["cat", "dog", "car"], ALIGNOptions(text_prompt_depth=2, vision_prompt_depth=2))
images = open_clip.image_transform(input_size(model.clip), is_train=False)(Image.open("image.png"))[None]
with torch.no_grad():
    logits = model(images)

assert logits.shape == (1, 3) and logits.isfinite().all() and logits.std() > 0, logits
print("scored", logits.softmax(-1).tolist())

# A run's folder, as train.py writes it: Classifier and the command give the same scores.
settings = ModelSettings(
    "ALIGN", {"text_prompt_depth": 2, "vision_prompt_depth": 2}, ("cat", "dog", "car"), "tiny.pt", "", "", "", "fp32",
    "learner", "", {"size": list(input_size(model.clip))},
)
Path("run/learner").mkdir(parents=True)
torch.save({"state_dict": model.state_dict()}, "run/learner/model.pth.tar-1")
content = {"classnames": list(settings.classnames), "model": settings.as_json()}
Path("run/run.json").write_text(json.dumps(content))
predictions = Classifier.load("run")("image.png")
torch.testing.assert_close(predictions.logits, logits)
"""


def run(*words: str | Path, cwd: Path) -> str:
    """Run a command without the variables that bring other folders in, and return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    env["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def link_requirements(requires: list[str] | None, site: Path, linked: set[str]) -> None:
    """Link the installed distributions that ``requires`` names, and what these require, into a site-packages folder."""
    for requirement in map(Requirement, requires or ()):
        if requirement.name in linked or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        linked.add(requirement.name)
        dist = distribution(requirement.name)
        for top in {file.parts[0] for file in dist.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(dist.locate_file(top))
        link_requirements(dist.requires, site, linked)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what the build reads, so that nothing else of the checkout can slip in."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder)
    for name in ("prompting", "trainers", "datasets"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(*PIP, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", cwd=folder)
    (file,) = (folder / "dist").iterdir()
    return file


@pytest.mark.slow
def test_the_wheel_scores_an_image_in_a_clean_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    (installed,) = distributions(path=[str(site)])
    linked: set[str] = set()
    link_requirements(installed.requires, site, linked)
    assert "torch" in linked and "yacs" not in linked
    torch.save(vit_state(vision_layers=2, text_layers=2), tmp_path / "tiny.pt")
    (tmp_path / "score.py").write_text(SCORE)
    assert "scored" in run(python, "-I", "score.py", cwd=tmp_path)
    assert "image.png: " in run(python, "-I", "-m", "prompting", "predict", "run", "image.png", cwd=tmp_path)
