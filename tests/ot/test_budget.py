"""Memory of the head, and equality of blocks and the whole batch."""

import json

import pytest
import torch

from prompting.ot import hierarchical_ot, sinkhorn, solver, tokens
from tests.reference import ot_naive as naive


def peak_bytes(run, folder) -> int:
    """The most memory that ``run`` holds above what was held before, from the allocator's own log."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = [e for e in json.loads((folder / "trace.json").read_text())["traceEvents"] if e["name"] == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


@pytest.mark.parametrize("stop, group_dims", [("marginal", 0), ("change", 1)])
@pytest.mark.parametrize("shape", [(13, 4, 9, 5), (13, 4, 5, 9)])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_blocks_of_problems_equal_the_whole_batch(monkeypatch, stop, group_dims, shape, scale):
    cost = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cost[::2] *= scale  # 8: too large for the kernel scaling, so that a block needs both scalings
    options = {"lam": 0.1, "stop": stop, "group_dims": group_dims, "tol": 1e-4}
    whole = sinkhorn(cost, **options)
    monkeypatch.setattr(solver, "cached_elements", lambda: 3 * 45)
    torch.testing.assert_close(sinkhorn(cost, **options), whole, atol=1e-12, rtol=0)
    distance_only = sinkhorn(cost, return_plan=False, **options)
    assert distance_only.plan is None
    torch.testing.assert_close(tuple(distance_only[1:]), tuple(whole[1:]), atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("learn", [False, True])
def test_memory_is_a_few_chunks_of_costs(monkeypatch, tmp_path, learn):
    chunk = 2**16
    for module in (solver, tokens):
        monkeypatch.setattr(module, "cached_elements", lambda: 2**28)  # so that ``max_elements`` decides
    f = naive.features(2, images=3, classes=48, rows=64, cols=32, dtype=torch.float32)
    f = {name: x.requires_grad_(learn) for name, x in f.items()}
    problems = 3 * 48 * 3 * 2

    def run(max_elements):
        out = hierarchical_ot(**f, max_elements=max_elements)
        if learn:
            out.logits.sum().backward()

    run(chunk)
    # What grows with the classes: potentials (and what they are assembled from), features and their gradients.
    linear = 4 * (3 * problems * (64 + 32) + 6 * sum(x.numel() for x in f.values()))
    allowed = linear + 6 * 4 * chunk
    assert peak_bytes(lambda: run(chunk), tmp_path) <= allowed
    assert allowed < 4 * problems * 64 * 32 < peak_bytes(lambda: run(2**26), tmp_path), "the check can fail"


def test_backward_keeps_potentials_not_plans_in_uneven_chunks():
    f = {n: x.requires_grad_() for n, x in naive.features(3, images=3, classes=5, rows=40, cols=20).items()}
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        hierarchical_ot(**f, max_elements=2 * 3 * 2 * 40 * 20)
    assert sizes and max(sizes) < 3 * 2 * 40 * 20, "less than the plans of one (image, class) pair"
