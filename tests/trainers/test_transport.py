"""Convergence, iterations and entropy of the transport reach results, TensorBoard and log."""

from types import SimpleNamespace

import pytest
from torch import nn

from prompting.ot import HierarchicalOT
from tests.reference import ot_naive as naive
from trainers.record import transport
from trainers.record.transport import record_transport


@pytest.mark.parametrize("max_iter, failed", [(1, True), (1000, False)])
def test_statistics_are_recorded(monkeypatch, max_iter, failed):
    scalars, lines = {}, []
    model = nn.Module()
    model.head = HierarchicalOT(max_iter=max_iter, tol=1e-4)
    trainer = SimpleNamespace(model=model, epoch=3, sum_shares=lambda x: x)
    trainer.write_scalar = lambda tag, value, step: scalars.update({tag: (value, step)})
    monkeypatch.setattr(transport.logger, "info", lines.append)
    model.head(**naive.features(0))
    record_transport(trainer, "train")
    record = trainer.transport["train"]["token"]
    assert record["problems"] == 2 * 3 * 3 * 2 and (record["not_converged"] > 0) == failed
    share = record["not_converged"] / record["problems"]
    assert scalars["train/transport_token_not_converged"] == (share, 3)
    assert scalars["train/transport_token_uniform_entropy"][0] >= record["entropy"]
    assert set(record) == {"problems", "not_converged", "iterations", "entropy"}
    for name in ("iterations", "entropy"):
        assert scalars[f"train/transport_token_{name}"] == (record[name], 3) and record[name] > 0
    told = f"token level: {record['not_converged']} of 36 problems did not converge within 1 iterations"
    assert any(told in line for line in lines) == failed and bool(lines) == failed


def test_methods_without_transport_have_none():
    trainer = SimpleNamespace(model=nn.Linear(1, 1), epoch=0)
    record_transport(trainer, "test")
    assert trainer.transport == {}
