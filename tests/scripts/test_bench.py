"""The benchmarks measure what they say: the naive path and the peers give our numbers, cases end in a result."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from dassl.config import get_cfg_default

import trainers
from prompting.clip import load_clip
from prompting.clip.formats import build_clip
from prompting.ot import sinkhorn
from scripts.bench import common, measuring, naive, ot, report, running, short
from tests.reference.clip_states import vit_state
from trainers.align import MMP


def test_naive_path_gives_the_same_numbers():
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    for side in ("TEXT", "VISION"):
        cfg.TRAINER.MMP[f"{side}_PROMPT_NUMBER"] = cfg.TRAINER.MMP[f"{side}_PROMPT_DEPTH"] = 2
    torch.manual_seed(0)
    model = MMP.build_clip(cfg, ["cat", "yin_yang", "golden retriever"], load_clip(build_clip(vit_state(), "drawn")))
    learned = [p for p in model.parameters() if p.requires_grad]
    images, labels = torch.randn(2, 3, 12, 12), torch.tensor([0, 2])
    ours, (theirs, positions) = model(images), naive.logits(model, images)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    for mine, other in zip(*(torch.autograd.grad(F.cross_entropy(x, labels), learned) for x in (ours, theirs))):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-2)
    assert positions == {"text": 2 * 3 * 20, "vision": 2 * 2 * (1 + 9 + 2)}


def test_flops_are_those_of_the_products():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    assert measuring.count_flops(lambda: (a @ b).sum().backward()) == 2 * 2 * 3 * 5 * 7


def test_time_is_spent_on_what_runs():
    a, query = torch.randn(400, 400), torch.randn(1, 4, 200, 64)
    alone = {
        "products": lambda: torch.addmm(a, a, a @ a),
        "attention": lambda: F.scaled_dot_product_attention(query, query, query),
        "rest": lambda: a.exp().sum(),
    }
    for kind, run in alone.items():
        shares = measuring.spent_on(run)
        assert sum(shares.values()) == pytest.approx(1, abs=0.002) and max(shares, key=shares.__getitem__) == kind


def test_class_names_are_drawn_once():
    assert common.class_names(20) == common.class_names(20) and len(set(common.class_names(200))) > 50


CASE = {
    "rows": 9,
    "cols": 5,
    "iterations": 30,
    "problems": 12,
    "device": "cpu",
    "threads": 0,
    "repeat": 1,
    "at_least": 0.0,
}


@pytest.mark.parametrize("name", [n for n in ot.solvers(1) if n not in ("ours, tol 1e-2", "geomloss")])
@pytest.mark.parametrize("iterations", [3, 50])
def test_peers_of_the_transport_compute_the_same(name, iterations):
    cost = ot.token_costs(7, 9, 5)
    found, ours = (ot.solvers(iterations)[n](cost) for n in (name, "ours"))
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-4)


def test_geomloss_computes_the_regularised_value_of_the_same_plans():
    cost = ot.token_costs(7, 9, 5)
    plan = sinkhorn(cost, lam=ot.LAM, max_iter=200, tol=0.0).plan
    value = (plan * cost).sum((1, 2)) + ot.LAM * (plan * (plan * 9 * 5).log()).sum((1, 2))
    torch.testing.assert_close(ot.solvers(200)["geomloss"](cost), value, atol=1e-4, rtol=1e-3)


def test_blocks_are_as_asked_for_and_only_then():
    seen = []
    usual = ot.solve.CACHE_BYTES
    ot.in_blocks(lambda cost: seen.append(ot.solve.CACHE_BYTES), 0.5)(torch.zeros(1))
    assert seen == [2**19] and ot.solve.CACHE_BYTES == usual


def test_a_case_comes_back_measured_failed_or_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "9000000")
    good = {**CASE, "solvers": ["ours", "plain batched loop"], "block_mib": []}
    bad = {**good, "rows": 0}
    with running.Progress(3.0) as progress:
        found = running.run_cases("scripts.bench.ot", [good, bad], lambda case: 1.0, tmp_path / "ot.json", progress)
        progress.end = 0.0
        late = running.run_cases("scripts.bench.ot", [good], lambda case: 1.0, tmp_path / "late.json", progress)
    rows = found[0]["solvers"]
    assert rows["plain batched loop"]["largest_difference"] < 1e-5
    rates = [rows[name]["problems_per_second"] for name in ("ours", "plain batched loop")]
    assert rows["plain batched loop"]["ours_is_faster_by"] == pytest.approx(rates[0] / rates[1], abs=0.006)
    assert found[1]["failed"] == "exit code 1" and late[0]["left_out"] == "the time was up"
    written = json.loads((tmp_path / "ot.json").read_text())
    assert found[0]["malloc"] == {"MALLOC_TRIM_THRESHOLD_": "9000000"}
    assert written["command"].startswith("MALLOC_TRIM_THRESHOLD_=9000000 python ")
    assert written["results"] == found and written["machine"]["versions"]["torch"]
    assert [row[3] for row in report.ot_table(found + late).rows][1:] == ["exit code 1", "the time was up"]


def test_the_short_form_has_a_naive_case_beside_ours():
    for name, effort, cases, _ in short.plan():
        assert all(effort(case) > 0 for case in cases)
        if name != "ot":
            assert sum(naive is not None for _, naive in report.pairs(cases)) >= 1
