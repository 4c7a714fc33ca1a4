"""docs/plugin.md, done: ALIGN in a checkout laid out like CoOp's, with its own data set, evaluator and train.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from open_clip import tokenize

from tests.reference.clip_states import vit_state

PROJECT = Path(__file__).resolve().parent.parent
PAGE = (PROJECT / "docs" / "plugin.md").read_text()

TRAIN = """\
import dassl.utils
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from dassl.utils import set_random_seed, setup_logger
from yacs.config import CfgNode

import datasets.own


def cannot_read(path):
    raise RuntimeError("Dassl 0.6.3 cannot read its own checkpoints with torch 2.6 and later")


dassl.utils.load_checkpoint = cannot_read
{line 1}


def main(output_dir, opts, model_dir=None):
    cfg = get_cfg_default()
    cfg.TRAINER.COOP = CfgNode({"N_CTX": 16})
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    {line 2}
    cfg.merge_from_file("noise.yaml")
    cfg.merge_from_file("configs/trainers/ALIGN/vit_b16_base2new.yaml")
    cfg.OUTPUT_DIR, cfg.TRAINER.NAME, cfg.SEED = output_dir, "ALIGN", 1
    cfg.merge_from_list(opts)
    cfg.freeze()
    set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR)
    trainer = build_trainer(cfg)
    if model_dir:
        trainer.load_model(model_dir, epoch=1)
        trainer.test()
    else:
        trainer.train()
"""

OWN = """\
import os

import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.evaluation import EVALUATOR_REGISTRY
from dassl.evaluation.evaluator import Classification
from torchvision.transforms.functional import to_pil_image


@DATASET_REGISTRY.register()
class Noise(DatasetBase):
    dataset_dir = "noise"

    def __init__(self, cfg):
        folder = os.path.join(cfg.DATASET.ROOT, self.dataset_dir)
        os.makedirs(folder, exist_ok=True)
        stream = torch.Generator().manual_seed(0)

        def draw(split, number):
            items = []
            for label, name in enumerate(("rough_noise", "fine noise", "snow")):
                for i in range(number):
                    path = os.path.join(folder, f"{split}_{label}_{i}.png")
                    to_pil_image(torch.rand(3, 12, 12, generator=stream)).save(path)
                    items.append(Datum(impath=path, label=label, classname=name))
            return items

        super().__init__(train_x=draw("train", 4), test=draw("test", 7))


@EVALUATOR_REGISTRY.register()
class Tally(Classification):
    def evaluate(self):
        results = super().evaluate()
        print(f"TALLY {len(self._y_true)} images")
        results["tally"] = 17.0
        return results
"""


@pytest.fixture(scope="module", params=["installed", pytest.param("copied", marks=pytest.mark.long)])
def checkout(tmp_path_factory, request):
    """A checkout with the files that the page names; the library is installed (in this .venv) or copied."""
    root = tmp_path_factory.mktemp("checkout")
    files = {name for row in re.findall(r"^ *\| (`.*?) \|", PAGE, re.M) for name in re.findall(r"`([^`]+)`", row)}
    for name in files | ({"prompting/"} if request.param == "copied" else set()):
        source, target = PROJECT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    block = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
    first, second = (line.strip() for line in block.splitlines() if line.split("#")[0].strip())
    (root / "train.py").write_text(TRAIN.replace("{line 1}", first).replace("{line 2}", second))
    for package in ("datasets", "trainers", "clip"):
        (root / package).mkdir(exist_ok=True)
        (root / package / "__init__.py").write_text("")
    (root / "clip" / "clip.py").write_text("raise ImportError('the checkout has a CLIP of its own')\n")
    (root / "datasets" / "own.py").write_text(OWN)
    (root / "noise.yaml").write_text('DATASET:\n  NAME: "Noise"\nTEST:\n  EVALUATOR: "Tally"\n')
    torch.save(vit_state(patch=4, grid=3, vision_layers=2, text_layers=2), root / "tiny.pt")
    return root


CALLS = """\
import sys
import train

opts = sys.stdin.read().split()
train.main("run", opts)
print("THE EVALUATION")
train.main("again", opts, model_dir="run")
print("IMPORTED", *sys.modules)
"""


OPTIONS = """
    DATASET.ROOT data MODEL.BACKBONE.NAME tiny.pt INPUT.SIZE (12,12) DATALOADER.NUM_WORKERS 0 USE_CUDA False
    OPTIM.MAX_EPOCH 1 OPTIM.WARMUP_EPOCH 0 TRAIN.PRINT_FREQ 1
    TRAINER.ALIGN.TEXT_PROMPT_DEPTH 2 TRAINER.ALIGN.VISION_PROMPT_DEPTH 2
"""


@pytest.mark.slow
def test_align_trains_tests_and_saves_in_another_checkout(checkout):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CALLS]
    done = subprocess.run(command, cwd=checkout, input=OPTIONS, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    out, again = done.stdout.split("THE EVALUATION\n")
    again, _, imported = again.partition("IMPORTED ")
    for line in (r"epoch \[1/1\] batch \[3/3\] .* loss \d", r"\* total: 21$", r"TALLY 21 images"):
        assert re.search(line, out, re.M), out
    run = json.loads((checkout / "run" / "results.json").read_text())
    assert (run["method"], run["dataset"]) == ("ALIGN", "Noise")
    assert run["classnames"] == ["rough_noise", "fine noise", "snow"]
    metrics = run["metrics"]["test"]
    assert metrics["tally"] == 17 and metrics["images"] == 21
    assert f"* accuracy: {metrics['accuracy']:.1f}%" in out
    rows = (checkout / "run" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 22 and rows[1].startswith("noise/test_0_0.png,0,rough_noise,")

    state = torch.load(checkout / "run/MultiModalPromptLearner/model.pth.tar-1", weights_only=True)["state_dict"]
    assert all(name.startswith("prompt_learner.") and torch.isfinite(value).all() for name, value in state.items())
    assert sum(value.numel() for value in state.values()) == run["learned_parameters"]
    words = torch.load(checkout / "tiny.pt")["token_embedding.weight"][tokenize(["a photo"])[0, 1:3]]
    moved = (state["prompt_learner.ctx"][0] - words).abs().max()
    assert 1e-6 < moved < 0.1  # the first prompt starts from CTX_INIT's words, and three small steps follow

    assert "epoch [" not in again
    evaluated = json.loads((checkout / "again" / "results.json").read_text())
    assert evaluated["learned_sha256"] == run["learned_sha256"]
    assert evaluated["metrics"]["test"]["accuracy"] == metrics["accuracy"]
    copied = {path.relative_to(checkout).with_suffix("") for path in (checkout / "trainers").rglob("*.py")}
    modules = {".".join(path.parts).removesuffix(".__init__") for path in copied}
    assert modules <= set(imported.split())  # no file too many
