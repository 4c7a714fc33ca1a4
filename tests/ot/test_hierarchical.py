"""The head: both readings against loops, special cases, independence, chunks, gradients, precision, validation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prompting.ot import HeadSettings, HierarchicalOT, hierarchical_ot, sinkhorn, tokens
from tests.reference import ot_naive as naive

LAMBDAS = {"lambda_prompt": 0.1, "lambda_token": 0.1}


def numpy_of(f: dict[str, torch.Tensor], lengths: list[int]) -> tuple:
    r = [[f["r"][b, m].double().numpy() for m in range(f["r"].shape[1])] for b in range(len(f["r"]))]
    return f["z"].double().numpy(), f["h"].double().numpy(), r, naive.ragged(f["s"], lengths)


def leaves(f: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.clone().requires_grad_() for name, x in f.items()}


def gradients(out, f: dict[str, torch.Tensor]) -> list[torch.Tensor | None]:
    weights = torch.linspace(-1, 2, out.logits.numel(), dtype=out.logits.dtype).reshape(out.logits.shape)
    return list(torch.autograd.grad((out.logits * weights).sum(), list(f.values()), allow_unused=True))


@pytest.mark.parametrize("max_elements", [2**26, 400])
@pytest.mark.parametrize("tol, common", [(1e-2, 0.0), (1e-2, 1.0), (1e-5, 0.5)])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_equals_loops_with_classes_of_different_lengths(reading, tol, common, max_elements):
    f, lengths = naive.features(0, common=common), [5, 2, 3]
    settings = {"beta": 0.7, "lambda_prompt": 0.08, "lambda_token": 0.12, "max_iter": 60, "tol": tol}
    more = {"s_mask": naive.lengths_mask(lengths, 5), "reading": reading, "max_elements": max_elements}
    out = hierarchical_ot(**f, **more, logit_scale=20.0, **settings)
    want = getattr(naive, reading)(*numpy_of(f, lengths), scale=20.0, **settings)
    np.testing.assert_allclose(out.cost.numpy(), want["cost"], atol=1e-11)
    np.testing.assert_allclose(out.logits.numpy(), want["logits"], atol=1e-9)
    np.testing.assert_array_equal(out.token.iterations.numpy(), want["token_iterations"])
    np.testing.assert_array_equal(out.prompt.iterations.numpy(), want["prompt_iterations"])


@pytest.mark.parametrize("leave_out", [{"hierarchical": False}, {"beta": 0.0}])
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_without_the_token_level(reading, leave_out):
    f = naive.features(2, common=1.0)
    out = hierarchical_ot(f["z"], f["h"], logit_scale=5.0, reading=reading, **leave_out)
    want = getattr(naive, reading)(*numpy_of(f, [5, 5, 5]), scale=5.0, beta=0.0, **LAMBDAS)
    assert out.token is None
    np.testing.assert_allclose(out.logits.numpy(), want["logits"], atol=1e-10)


@pytest.mark.parametrize("gradient", ["envelope", "unrolled"])
@pytest.mark.parametrize("garbage", [float("nan"), 1e4])
def test_masked_tokens_equal_absent_tokens(gradient, garbage):
    f = naive.features(9)
    r_mask, s_mask = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool(), torch.tensor([1, 0, 1, 1, 0]).bool()
    short = leaves({**f, "r": f["r"][:, :, r_mask], "s": f["s"][:, :, s_mask]})
    f["r"][:, :, ~r_mask], f["s"][:, :, ~s_mask] = garbage, garbage
    full = leaves(f)
    out = hierarchical_ot(**full, r_mask=r_mask[None, None], s_mask=s_mask.expand(3, 1, 5), gradient=gradient)
    want = hierarchical_ot(**short, gradient=gradient)
    torch.testing.assert_close(out.logits, want.logits, atol=1e-12, rtol=0)
    z, h, r, s = gradients(out, full)
    torch.testing.assert_close([z, h, r[:, :, r_mask], s[:, :, s_mask]], gradients(want, short), atol=1e-11, rtol=0)
    assert float(r[:, :, ~r_mask].abs().sum() + s[:, :, ~s_mask].abs().sum()) == 0


# One pair is 3 * 2 * 7 * 5 = 210 costs; 5 classes and 3 images then split into pairs, 2 + 2 + 1 classes, 2 + 1 images.
@pytest.mark.parametrize("max_elements, chunks", [(1, 15), (500, 9), (210 * 5, 3), (210 * 10, 2), (10**6, 1)])
@pytest.mark.parametrize("reading, gradient", [("paper", "envelope"), ("paper", "unrolled"), ("released", "envelope")])
def test_chunked_equals_plain_forward_and_backward(monkeypatch, reading, gradient, max_elements, chunks):
    seen, solve = [], tokens.sinkhorn
    monkeypatch.setattr(
        tokens, "sinkhorn", lambda cost, *args, **kw: seen.append(cost.numel()) or solve(cost, *args, **kw)
    )
    f, mask = leaves(naive.features(10, images=3, classes=5)), naive.lengths_mask([5, 2, 3, 1, 4], 5)
    settings = {"s_mask": mask, "reading": reading, "gradient": gradient, "return_plans": True}
    out = hierarchical_ot(**f, max_elements=max_elements, **settings)
    assert len(seen) == chunks and max(seen) <= max(max_elements, 210)
    plain = hierarchical_ot(**f, **settings)
    torch.testing.assert_close((out.logits, *out.token), (plain.logits, *plain.token), atol=1e-12, rtol=0)
    got, want = ([g for g in gradients(result, f) if g is not None] for result in (out, plain))
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


# ---------------------------------------------------------------- gradients


def test_paper_envelope_gradient_is_that_of_both_plans_held_fixed():
    f, mask = leaves(naive.features(13)), naive.lengths_mask([5, 2, 3], 5)
    out = hierarchical_ot(**f, s_mask=mask, beta=0.6, logit_scale=3.0, return_plans=True)
    cosine = torch.einsum("bmd,knd->bkmn", F.normalize(f["z"], dim=-1), F.normalize(f["h"], dim=-1))
    similar = torch.einsum("bmjd,knld->bkmnjl", F.normalize(f["r"], dim=-1), F.normalize(f["s"], dim=-1))
    cost = 1 - cosine + 0.6 * (out.token.plan * (1 - similar)).sum((-2, -1))
    held = out._replace(logits=3.0 * (1 - (out.prompt.plan * cost).sum((-2, -1))))
    torch.testing.assert_close(out.logits, held.logits, atol=1e-12, rtol=0)
    torch.testing.assert_close(gradients(out, f), gradients(held, f), atol=1e-11, rtol=0)


def test_paper_unrolled_gradcheck():
    f = naive.features(14, images=1, classes=2, visual=2, text=2, rows=3, cols=3, width=3)
    mask = naive.lengths_mask([3, 2], 3)

    def run(z, h, r, s):
        settings = {"max_iter": 5, "tol": 0.0, "lambda_token": 0.3, "lambda_prompt": 0.3, "gradient": "unrolled"}
        out = hierarchical_ot(z, h, r, s, s_mask=mask, max_elements=40, **settings)
        return out.logits, out.distance

    assert torch.autograd.gradcheck(run, tuple(x.requires_grad_() for x in f.values()))


def test_released_token_term_and_plans_take_no_gradient():
    f = leaves(naive.features(15))
    out = hierarchical_ot(**f, reading="released", logit_scale=4.0)
    cosine = torch.einsum("bmd,knd->bkmn", F.normalize(f["z"], dim=-1), F.normalize(f["h"], dim=-1))
    held = out._replace(logits=4.0 * (out.prompt.plan.detach() * cosine).sum((-2, -1)))
    got = gradients(out, f)
    assert got[2] is None and got[3] is None and not out.token.distance.requires_grad
    torch.testing.assert_close(got[:2], gradients(held, f)[:2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_scored_in_float32(dtype):
    # Opposite directions: every token cost is near 2, where exp(-2 / 0.1) is zero in float16.
    f = naive.features(17, dtype=dtype, common=4.0)
    f["h"], f["s"] = -f["h"], -f["s"]
    exact = hierarchical_ot(**{name: x.double() for name, x in f.items()})
    assert float(exact.token.distance.min()) > 1.5
    f = leaves(f)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = hierarchical_ot(**f)
    assert out.logits.dtype == torch.float32
    torch.testing.assert_close(out.logits.double(), exact.logits, atol=2e-5, rtol=0)
    grads = gradients(out, f)
    assert all(g.dtype == dtype and bool(torch.isfinite(g).all()) for g in grads)


def test_mixed_dtypes_meet_in_the_widest():
    f = naive.features(18)
    mixed = hierarchical_ot(f["z"].half(), f["h"], f["r"].float(), f["s"].bfloat16())
    assert mixed.logits.dtype == torch.float64
    torch.testing.assert_close(mixed.logits, hierarchical_ot(**f).logits, atol=2e-2, rtol=0)


# ---------------------------------------------------------------- the module and validation


def test_module_is_the_function_and_has_no_parameters():
    f, mask = naive.features(20), naive.lengths_mask([5, 2, 3], 5)
    settings = HeadSettings(reading="released", beta=0.5, lambda_token=0.2, max_elements=500)
    head, given = HierarchicalOT(settings), {"s_mask": mask, "logit_scale": 9.0}
    out = head(**f, **given, return_plans=True)
    same = hierarchical_ot(**f, settings=settings, **given)
    assert torch.equal(out.logits, same.logits) and same.token.plan is None
    by_names = HierarchicalOT(reading="released", beta=0.5, lambda_token=0.2, max_elements=500)
    assert by_names.settings == settings and out.token.plan is not None
    assert not head.state_dict() and "reading='released'" in repr(head) and head.uses_tokens
    assert not HierarchicalOT(beta=0.0).uses_tokens


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_statistics_of_the_module_are_those_of_its_problems(reading):
    f = naive.features(4, common=1.0)
    head = HierarchicalOT(reading=reading, max_iter=4, tol=1e-4)
    lengths = [5, 2, 3]
    mask = naive.lengths_mask(lengths, 5)
    outs = [head(**f, s_mask=mask), head(**{name: 0.5 * x + 0.1 for name, x in f.items()}, s_mask=mask)]
    found = head.statistics.read()
    uniform = {"prompt": np.log(3 * 2), "token": np.mean([np.log(7 * length) for length in lengths])}
    for level in ("prompt", "token"):
        solved = [getattr(out, level) for out in outs]
        flat = {name: torch.cat([getattr(x, name).flatten() for x in solved]) for name in solved[0]._fields[3:]}
        assert found[level] == {
            "problems": len(flat["converged"]),
            "not_converged": int((~flat["converged"]).sum()),
            "iterations": pytest.approx(float(flat["iterations"].double().mean())),
            "entropy": pytest.approx(float(flat["entropy"].mean())),
            "uniform_entropy": pytest.approx(uniform[level]),
        }
    assert found["token"]["not_converged"] > 0 and head.statistics.read() == {}
    head(**f)
    twice = head.statistics.read(lambda x: 2 * x)  # as if another process had the same problems
    assert twice["prompt"]["problems"] == found["prompt"]["problems"]


def test_gradient_of_the_tokens_keeps_column_sums_at_tiny_lambda():
    """It is that of ``sinkhorn``, whose plan keeps them."""
    torch.manual_seed(0)
    r = F.normalize(torch.randn(3, 8), dim=-1).requires_grad_()
    s = F.normalize(torch.randn(4, 8), dim=-1)
    settings = HeadSettings(lambda_token=1e-6).solver(1e-6)
    cost = 1 - r @ s.mT
    (want,) = torch.autograd.grad(sinkhorn(cost, settings).distance, r)
    (grad,) = torch.autograd.grad(
        tokens.solve_tokens(r[None, None], s[None, None], None, None, settings, False, 2**20).distance.sum(), r
    )
    torch.testing.assert_close(grad, want, atol=1e-2, rtol=0)
    assert float((grad.norm() / want.norm() - 1).abs()) < 0.05


def test_sums_over_processes_are_those_of_training():
    """An evaluation scores whole batches in each process, which need not be equally many."""
    f, asked = naive.features(20), []
    settings = HeadSettings(reading="released", hierarchical=False)
    head = HierarchicalOT(settings, all_reduce_sum=lambda total: asked.append(total) or total)
    head(f["z"].requires_grad_(), f["h"])
    trained = len(asked)
    with torch.no_grad():
        head(f["z"], f["h"])
    assert len(asked) == trained > 0


BAD_SETTINGS = [
    ({"reading": "realeased"}, ValueError, "reading is 'realeased'; allowed: 'paper', 'released'; did you mean 'rel"),
    ({"beta": -1.0}, ValueError, "beta is -1.0; allowed: a finite number >= 0"),
    ({"lambda_prompt": 0}, ValueError, "lambda_prompt is 0; allowed: a finite number > 0"),
    ({"lambda_token": float("nan")}, ValueError, "lambda_token is nan"),
    ({"reading": "released", "gradient": "unrolled"}, ValueError, "gradient is 'unrolled' with reading 'released'"),
    ({"hierarchical": "no"}, TypeError, "hierarchical is 'no'"),
    ({"max_elements": 0}, ValueError, "max_elements is 0; allowed: an integer >= 1"),
]
BAD_INPUT = [
    ({"z": torch.rand(2, 6)}, ValueError, r"z has shape \(2, 6\); allowed: \(B, M, D\)"),
    ({"h": torch.rand(3, 2, 5)}, ValueError, r"h has shape \(3, 2, 5\); allowed: \(K, N, D\) = \(any, any, 6\)"),
    ({"r": torch.rand(2, 4, 7, 6)}, ValueError, r"r has shape .* = \(2, 3, any, 6\)"),
    ({"s": torch.rand(3, 2, 0, 6)}, ValueError, r"s has shape \(3, 2, 0, 6\)"),
    ({"r": None}, ValueError, r"r is None; allowed: tokens \(B, M, J, D\), or None with beta=0 or hierarchical=False"),
    ({"s": torch.ones(3, 2, 5, 6).long()}, TypeError, "s has dtype torch.int64"),
    ({"z": torch.full((2, 3, 6), float("inf"))}, ValueError, "z holds 36 non-finite of 36 values"),
    ({"r": torch.full((2, 3, 7, 6), float("nan"))}, ValueError, "r holds 252 non-finite"),
    ({"s_mask": torch.ones(3, 2, 4).bool()}, ValueError, r"s_mask has shape \(3, 2, 4\); .* \(3, 2, 5\)"),
    ({"s_mask": torch.zeros(3, 1, 5).bool()}, ValueError, "s_mask leaves a problem with no valid entry"),
    ({"r_mask": torch.ones(7)}, TypeError, "r_mask is torch.float32"),
    ({"logit_scale": float("nan")}, ValueError, "logit_scale is nan"),
    ({"logit_scale": torch.ones(2)}, ValueError, r"logit_scale is a torch.float32 tensor of shape \(2,\)"),
]


@pytest.mark.parametrize("change, error, message", BAD_SETTINGS)
def test_bad_settings_are_refused_by_function_and_module(change, error, message):
    f = naive.features(21)
    for call in (lambda: hierarchical_ot(**f, **change), lambda: HierarchicalOT(**change)):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change, error, message", BAD_INPUT)
def test_bad_input_gets_one_clear_line(change, error, message):
    with pytest.raises(error, match=message) as caught:
        hierarchical_ot(**{**naive.features(22), **change})
    assert "\n" not in str(caught.value)
