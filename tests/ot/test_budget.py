"""What the head holds at once, and that blocks and problems that leave the working arrays change no result."""

from __future__ import annotations

import json

import pytest
import torch

from prompting.ot import hierarchical_ot, iterate, sinkhorn, solve
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
def test_blocks_equal_the_whole(monkeypatch, stop, group_dims, shape, scale):
    cost = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cost[::2] *= scale  # 8: beyond the kernel domain, so that both domains meet in a block
    options = {"lam": 0.1, "stop": stop, "group_dims": group_dims, "tol": 1e-4}
    whole = sinkhorn(cost, **options)
    monkeypatch.setattr(solve, "cached", lambda size: 3)
    monkeypatch.setattr(iterate, "DENSE", 1.0)
    blocks = sinkhorn(cost, **options)
    short = sinkhorn(cost, keep_plan=False, **options)
    torch.testing.assert_close(blocks, whole, atol=1e-12, rtol=0)
    assert short.plan is None
    torch.testing.assert_close(tuple(short[1:]), tuple(whole[1:]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("stop, group_dims", [("marginal", 0), ("change", 1)])
def test_what_has_stopped_costs_nothing_more(monkeypatch, stop, group_dims):
    """Problems that are done leave the products of the iterations."""
    sizes, rows = [], iterate.KernelDomain.rows
    monkeypatch.setattr(iterate.KernelDomain, "rows", lambda s, c, *a: sizes.append(len(s.matrix)) or rows(s, c, *a))
    cost = torch.rand(10, 4, 9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cost[:7] *= 0.01
    out = sinkhorn(cost, lam=0.1, tol=1e-5, stop=stop, group_dims=group_dims)
    assert sizes[0] == 40 and min(sizes) <= 12
    assert sum(sizes) < 0.5 * 40 * int(out.iterations.max())


@pytest.mark.parametrize("learn", [False, True])
def test_memory_is_one_chunk_of_costs_and_a_few_blocks(monkeypatch, tmp_path, learn):
    monkeypatch.setattr(solve, "CACHE_BYTES", 2**17)
    chunk, block = 2**16, 2**17 * torch.get_num_threads()
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
    allowed = linear + 4 * chunk + 8 * block
    assert peak_bytes(lambda: run(chunk), tmp_path) <= allowed
    assert allowed < 4 * problems * 64 * 32 < peak_bytes(lambda: run(2**26), tmp_path), "the check can fail"


def test_backward_keeps_potentials_not_plans_in_uneven_chunks():
    f = {n: x.requires_grad_() for n, x in naive.features(3, images=3, classes=5, rows=40, cols=20).items()}
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        hierarchical_ot(**f, max_elements=2 * 3 * 2 * 40 * 20)
    assert sizes and max(sizes) < 3 * 2 * 40 * 20, "less than the plans of one (image, class) pair"
