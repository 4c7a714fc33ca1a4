"""The benchmarks measure what they say: the naive path and the peers give our numbers, cases end in a result."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY

from experiments.tables import FIGURES
from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from scripts.bench import measure, methods, naive, ot, running
from tests.reference.clip_states import vit_state
from tests.reference.configs import default_cfg


def test_naive_path_gives_the_same_numbers():
    cfg = default_cfg()
    for side in ("TEXT", "VISION"):
        cfg.TRAINER.MMP[f"{side}_PROMPT_NUMBER"] = cfg.TRAINER.MMP[f"{side}_PROMPT_DEPTH"] = 2
    torch.manual_seed(0)
    clip = load_clip(build_clip(vit_state(), "drawn"))
    model = TRAINER_REGISTRY.get("MMP").build_clip(cfg, ["cat", "yin_yang", "golden retriever"], clip)
    learned = [p for p in model.parameters() if p.requires_grad]
    images, labels = torch.randn(2, 3, 12, 12), torch.tensor([0, 2])
    ours, theirs = model(images), naive.logits(model, images)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    for mine, other in zip(*(torch.autograd.grad(F.cross_entropy(x, labels), learned) for x in (ours, theirs))):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-2)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small architecture that open_clip knows by name, with random weights in a folder of this test."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 9}
    vision = {"image_size": 32, "layers": 9, "width": 64, "patch_size": 16, "head_width": 32}
    config = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "bench-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    monkeypatch.setattr(measure.tempfile, "tempdir", str(tmp_path))
    case = {"backbone": "bench-tiny", "device": "cpu", "precision": "fp32", "threads": 0, "max_memory": 0.0}
    return {**case, "classes": 3, "prompts": 2, "images": 2, "repeat": 2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["step", "eval"])
@pytest.mark.parametrize("method, path", [("MMP", "ours"), ("MMP", "naive"), ("CoOp", "ours")])
def test_a_case_is_measured(tiny, kind, method, path):
    found = measure.measure({**tiny, "kind": kind, "method": method, "path": path})
    assert 0 < found["fastest"] <= found["seconds"] <= found["slowest"] and found["peak_gb"] > 0


@pytest.mark.parametrize("name", [name for name in ot.solvers(1) if name != "ours, tol 1e-2"])
def test_peers_of_the_transport_compute_the_same(name, iterations=20):
    cost = ot.token_costs(7, 9, 5)
    found, ours = (ot.solvers(iterations)[n](cost) for n in (name, "ours"))
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-4)


@pytest.mark.long
def test_a_case_comes_back_measured_or_failed(tmp_path):
    case = {"size": (9, 5), "iterations": 30, "problems": 12, "device": "cpu", "threads": 0, "at_least": 0.0}
    good = {**case, "solvers": ["ours", "plain batched loop"]}
    found = running.run_cases(running.PROJECT / "scripts/bench/ot.py", [good, {**good, "size": [0, 5]}], tmp_path / "o")
    assert found[0]["ours_is_faster_by"]["ours"] == 1 and found[0]["problems_per_second"]["plain batched loop"] > 0
    assert "Error" in found[1]["failed"] and json.loads((tmp_path / "o").read_text())["results"] == found
    late = running.run_cases(running.PROJECT / "scripts/bench/ot.py", [good], tmp_path / "late", minutes=0.0)
    assert late[0]["failed"] == "no time left"


def test_table_of_costs():
    steps = {"CoOp": (2.0, 1.0, 3.0), "MultiModalAdapter": (5.0, 9.0, 4.0), "MMP": (8.0, 8.0, 8.0)}
    results = [
        {"method": name, "cpu_seconds": seconds[k], "peak_gb": 1.0 + k, "learned_parameters": 2048}
        for k in range(3)
        for name, seconds in steps.items()
    ]
    table = methods.costs(results)
    assert list(table.index) == list(steps) and set(table["learned parameters"]) == {"2,048"}
    assert list(table["s/step"]) == [2, 5, 8] and list(table["x CoOp"]) == [1, 2.5, 4] and set(table["peak GB"]) == {2}
    figure, source = FIGURES["base2new", "MMA", "average", 16, "ViT-B/16", "H"]
    assert table.loc["MultiModalAdapter", ["published H", "source"]].to_list() == [figure, source] == [79.87, source]
    assert table.loc["MMP"].isna()[["published H", "source"]].all()


@pytest.mark.long
def test_a_method_is_measured_with_the_settings_of_its_protocol(tmp_path, capsys):
    words = ["--methods", "KgCoOp", "TipAdapterF", "--rounds", "1", "--repeat", "1", "--classes", "3"]
    assert methods.main([*words, "--backbone", "ViT-S-32-alt", "--out", str(tmp_path / "costs.json")]) == 0
    one, other = json.loads((tmp_path / "costs.json").read_text())["results"]
    assert one["learned_parameters"] == 4 * 256 and one["seconds"] > 0  # 4 vectors, as KgCoOp's YAML file has it
    assert other["learned_parameters"] == 3 * 256 and "failed" not in other  # a key for each image
    assert "| KgCoOp" in capsys.readouterr().out
