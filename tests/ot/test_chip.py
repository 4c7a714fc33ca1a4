"""The Triton kernel against the torch engine, in Triton's interpreter: on any machine, and no word on its speed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prompting.ot import sinkhorn

ROOT = Path(__file__).resolve().parents[2]
COMPARE = """
import torch
from prompting.ot import sinkhorn
draw = torch.Generator().manual_seed(0)
for rows, cols, dtype in ((7, 5, torch.float32), (20, 3, torch.float32), (1, 1, torch.float32), (9, 4, torch.float16)):
    cost = (2 * torch.rand(6, rows, cols, generator=draw)).to(dtype)
    cost[::3] *= 0.1  # stops early
    cost[1] *= 8  # beyond the kernel domain: torch solves it
    row, col = torch.rand(6, rows, generator=draw) > 0.3, torch.rand(6, cols, generator=draw) > 0.3
    row[:, 0] = col[:, 0] = True
    for masks in ({}, {"row_mask": row, "col_mask": col}):
        for options in ({}, {"tol": 1e-4, "max_iter": 7}, {"keep_plan": False}):
            want, got = (sinkhorn(cost, lam=0.1, engine=e, **masks, **options) for e in ("torch", "triton"))
            for name, x, y in zip(want._fields, want, got):
                pairs = zip(x, y) if name == "potentials" else [(x, y)]
                for a, b in pairs:
                    assert (a is None) == (b is None), name
                    if a is not None:
                        torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4, msg=lambda text: name + ": " + text)
print("same")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_kernel_equals_torch_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COMPARE], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "same", done.stderr


def test_importing_the_head_does_not_import_the_kernel():
    code = "import sys, prompting.ot; print('prompting.ot.chip.kernel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        ({"engine": "tritn"}, "engine is 'tritn'; allowed: .* did you mean 'triton'"),
        ({"engine": "triton"}, "engine is 'triton' but cost is on cpu"),
        ({"engine": "triton", "stop": "change"}, "but stop is 'change'"),
        ({"engine": "triton", "domain": "log"}, "but domain is 'log'"),
    ],
)
def test_what_the_kernel_cannot_do_is_said(monkeypatch, options, message):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=message):
        sinkhorn(torch.rand(2, 3, 4), lam=0.1, **options)
