"""One level of transport: against loops, POT, closed forms and finite differences."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ot as pot
import pytest
import torch

from prompting.ot import sinkhorn
from prompting.ot.solver import KERNEL_LIMIT
from tests.reference import ot_naive as naive

TIGHT = {"max_iter": 20000, "tol": 1e-12}


def costs(seed: int, *shape: int, low: float = 0.0, high: float = 2.0, dtype=torch.float64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(*shape, generator=draw, dtype=torch.float64)).to(dtype)


def rebuilt(cost: torch.Tensor, potentials: tuple[torch.Tensor, torch.Tensor], lam: float) -> torch.Tensor:
    return torch.exp((potentials[0].unsqueeze(-1) + potentials[1].unsqueeze(-2) - cost) / lam)


# ---------------------------------------------------------------- against loops and POT


@pytest.mark.parametrize("scaling", ["kernel", "log"])
@pytest.mark.parametrize("max_iter, tol", [(100, 1e-2), (3, 1e-2), (1, 0.0), (200, 1e-6)])
def test_marginal_stop_equals_single_loops(scaling, max_iter, tol):
    cost = costs(0, 3, 4, 6, 5)
    cost[0, 0] *= 0.1  # some stop early, some late
    out = sinkhorn(cost, lam=0.1, max_iter=max_iter, tol=tol, scaling=scaling)
    for i in np.ndindex(3, 4):
        plan, iterations, converged = naive.solve_one(cost[i].numpy(), 0.1, max_iter, tol)
        np.testing.assert_allclose(out.plan[i].numpy(), plan, atol=1e-12)
        assert (int(out.iterations[i]), bool(out.converged[i])) == (iterations, converged)
    if tol == 1e-2 and max_iter == 100:
        assert out.iterations.unique().numel() > 2, "the problems of this test should stop at different times"


@pytest.mark.parametrize("scaling", ["kernel", "log"])
@pytest.mark.parametrize("low, high", [(0.0, 0.6), (-0.3, 0.3)])
def test_change_stop_equals_group_loops(scaling, low, high):
    cost = costs(1, 4, 3, 2, 6, 5, low=low, high=high)
    cost[0] *= 0.2
    for group_dims, groups in ((2, [(a,) for a in range(4)]), (3, [()]), (0, list(np.ndindex(4, 3, 2)))):
        out = sinkhorn(cost, lam=0.1, tol=1e-2, stop="change", group_dims=group_dims, scaling=scaling)
        for group in groups:
            members = cost[group].reshape(-1, 6, 5).numpy()
            plans, iterations, converged = naive.solve_group(list(members), 0.1, 100, 1e-2)
            np.testing.assert_allclose(out.plan[group].reshape(-1, 6, 5).numpy(), np.stack(plans), atol=1e-12)
            assert set(out.iterations[group].reshape(-1).tolist()) == {iterations}
            assert bool(out.converged[group].all()) == converged


def test_change_stop_does_not_count_masked_rows_in_the_mean():
    cost = costs(2, 3, 2, 6, 5, high=0.5)
    row_mask = torch.arange(6) < torch.tensor([6, 3, 1])[:, None, None]
    out = sinkhorn(cost, lam=0.1, row_mask=row_mask, tol=3e-3, stop="change", group_dims=1)
    for a, rows in enumerate([6, 3, 1]):
        plans, iterations, _ = naive.solve_group(list(cost[a, :, :rows].numpy()), 0.1, 100, 3e-3)
        np.testing.assert_allclose(out.plan[a, :, :rows].numpy(), np.stack(plans), atol=1e-12)
        assert out.iterations[a].tolist() == [iterations] * 2


@pytest.mark.parametrize("max_iter", [1, 100])
@pytest.mark.parametrize("stop, group_dims", [("marginal", 0), ("change", 1), ("change", 2)])
def test_masks_in_any_layout(stop, group_dims, max_iter):
    cost = costs(2, 3, 5, 6, 4, high=0.5)
    rows, cols = torch.rand(6, 5, 3) < 0.7, torch.rand(4, 3, 5) < 0.7
    rows[0], cols[0] = True, True
    masks = {"row_mask": rows.permute(2, 1, 0), "col_mask": cols.permute(1, 2, 0)}
    options = {"lam": 0.1, "tol": 3e-3, "stop": stop, "group_dims": group_dims, "max_iter": max_iter}
    found = sinkhorn(cost, **masks, **options)
    expected = sinkhorn(cost, **{name: mask.contiguous() for name, mask in masks.items()}, **options)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scaling", ["kernel", "log"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_group_shared_by_processes_stops_as_a_whole(scaling, masked):
    """Two threads stand for them: with ``all_reduce_sum`` each part ends where one process with all problems does."""
    cost = costs(8, 5, 3, 6, 5, high=0.5)
    cost[:2] *= 0.02  # alone, these stop early
    mask = torch.arange(6) < (torch.tensor([6, 5, 4, 6, 3]) if masked else torch.full((5,), 6))[:, None, None]
    shared, barrier = [None, None], threading.Barrier(2)

    def summed_by(i):
        def total(x):
            shared[i] = x
            barrier.wait(30)
            found = shared[0] + shared[1]
            barrier.wait(30)
            return found

        return total

    def run(part, **options):
        fixed = {"lam": 0.1, "tol": 1e-3, "stop": "change", "group_dims": 2, "scaling": scaling}
        return sinkhorn(cost[part], row_mask=mask[part], **fixed, **options)

    parts = (slice(0, 2), slice(2, 5))
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run, part, all_reduce_sum=summed_by(i)) for i, part in enumerate(parts)]
        found = [future.result(60) for future in futures]
    whole, alone = run(slice(None)), run(parts[0])
    assert alone.iterations.unique() != whole.iterations.unique()
    for part, out in zip(parts, found):
        torch.testing.assert_close(out.plan, whole.plan[part], atol=1e-12, rtol=0)
        assert torch.equal(out.iterations, whole.iterations[part])


@pytest.mark.parametrize("scaling", ["kernel", "log"])
@pytest.mark.parametrize("masked", [False, True])
def test_square_costs_in_either_layout(scaling, masked):
    """Of two equal sides either may lie innermost: the plan is the same, and the costs stay as they were."""
    cost = costs(3, 4, 6, 6)
    rows = [6, 5, 4, 3] if masked else [6] * 4
    mask = torch.arange(6) < torch.tensor(rows)[:, None]
    for given in (cost, cost.mT.contiguous().mT, cost.mT, cost.mT.contiguous()):
        before = given.clone()
        options = {"row_mask": mask} if masked else {}
        out = sinkhorn(given, lam=0.1, max_iter=7, tol=0.0, scaling=scaling, **options)
        assert torch.equal(given, before)
        for i, n in enumerate(rows):
            part = before[i, :n].numpy()
            plan, *_ = naive.solve_one(part, 0.1, 7, 0.0)
            np.testing.assert_allclose(out.plan[i, :n].numpy(), plan, atol=1e-12)
            assert float(out.distance[i]) == pytest.approx(float((plan * part).sum()), rel=1e-12)
            assert not out.plan[i, n:].any()


@pytest.mark.parametrize("lam", [0.05, 0.2, 1.0])
def test_plan_equals_pot(lam):
    cost = costs(3, 4, 9, 6)
    out = sinkhorn(cost, lam=lam, **TIGHT)
    for i in range(4):
        expected = pot.sinkhorn([], [], cost[i].numpy(), lam, numItermax=20000, stopThr=1e-13)
        np.testing.assert_allclose(out.plan[i].numpy(), expected, atol=1e-9)


def test_distance_goes_to_emd_as_lambda_goes_to_zero():
    cost = costs(4, 3, 7, 5)
    exact = np.array([pot.emd2([], [], c.numpy()) for c in cost])
    gaps = []
    for lam in (0.1, 0.03, 0.01, 0.003):
        out = sinkhorn(cost, lam=lam, max_iter=20000, tol=1e-9)
        gaps.append(np.abs(out.distance.numpy() - exact).max())
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-3


# ---------------------------------------------------------------- closed forms and symmetries


def test_one_by_one_is_the_cost():
    cost = costs(5, 6, 1, 1, low=-3.0, high=3.0)
    out = sinkhorn(cost, lam=0.1)
    torch.testing.assert_close(out.plan, torch.ones(6, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(out.distance, cost[:, 0, 0])
    assert out.iterations.tolist() == [1] * 6


def test_constant_cost_gives_the_product_plan():
    out = sinkhorn(torch.full((4, 3), 0.7, dtype=torch.float64), lam=0.1)
    torch.testing.assert_close(out.plan, torch.full((4, 3), 1 / 12, dtype=torch.float64))


def test_two_by_two_closed_form():
    # By symmetry the plan is [[a, b], [b, a]] with a / b = exp(gap / lam) and a + b = 1 / 2.
    cost = torch.tensor([[0.0, 0.3], [0.3, 0.0]], dtype=torch.float64)
    a = 0.5 / (1 + np.exp(-3.0))
    out = sinkhorn(cost, lam=0.1, **TIGHT)
    np.testing.assert_allclose(out.plan.numpy(), [[a, 0.5 - a], [0.5 - a, a]], atol=1e-12)


def test_permutation_cost_gives_the_permutation():
    order = torch.tensor([2, 0, 3, 1])
    cost = 1 - torch.eye(4, dtype=torch.float64)[order]
    out = sinkhorn(cost, lam=0.01)
    torch.testing.assert_close(out.plan, torch.eye(4, dtype=torch.float64)[order] / 4, atol=1e-12, rtol=0)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
def test_marginals_and_error(tol):
    out = sinkhorn(costs(6, 5, 8, 6), lam=0.1, tol=tol, max_iter=5000)
    rows, cols = out.plan.sum(-1) - 1 / 8, out.plan.sum(-2) - 1 / 6
    assert bool(out.converged.all()) and float(cols.abs().max()) < 1e-14
    assert float(rows.abs().sum(-1).max()) <= tol
    torch.testing.assert_close(out.error, rows.abs().sum(-1))
    torch.testing.assert_close(cols, torch.zeros_like(cols))


def test_transpose_swaps_the_roles():
    cost = costs(7, 3, 6, 4)
    out, swapped = sinkhorn(cost, lam=0.1, **TIGHT), sinkhorn(cost.mT, lam=0.1, **TIGHT)
    torch.testing.assert_close(out.plan, swapped.plan.mT, atol=1e-11, rtol=0)


def test_permuting_rows_and_columns_permutes_the_plan():
    cost, p, q = costs(8, 2, 6, 4), torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 3, 0, 1])
    out, moved = sinkhorn(cost, lam=0.1), sinkhorn(cost[:, p][:, :, q], lam=0.1)
    torch.testing.assert_close(moved.plan, out.plan[:, p][:, :, q], atol=1e-13, rtol=0)


def test_scaling_cost_and_lambda_together_changes_nothing_but_the_distance():
    cost = costs(9, 3, 6, 4)
    out, scaled = sinkhorn(cost, lam=0.1), sinkhorn(7 * cost, lam=0.7)
    torch.testing.assert_close(scaled.plan, out.plan, atol=1e-13, rtol=0)
    torch.testing.assert_close(scaled.distance, 7 * out.distance)


def test_adding_to_rows_and_columns_does_not_change_the_plan():
    cost = costs(10, 3, 6, 4)
    moved = cost + costs(11, 3, 6, 1) + costs(12, 3, 1, 4)
    torch.testing.assert_close(
        sinkhorn(moved, lam=0.1, **TIGHT).plan, sinkhorn(cost, lam=0.1, **TIGHT).plan, atol=1e-10, rtol=0
    )


def test_potentials_rebuild_the_plan():
    cost, mask = costs(13, 3, 6, 4), torch.tensor([True, True, False, True])
    for lam in (0.1, 0.004):  # kernel and log
        out = sinkhorn(cost, lam=lam, col_mask=mask)
        plan = rebuilt(cost, out.potentials, lam)
        torch.testing.assert_close(plan[..., mask], out.plan[..., mask], atol=1e-12, rtol=1e-9)
        assert float(out.potentials[1][..., 2].abs().max()) == 0


# ---------------------------------------------------------------- scalings and precision


def test_kernel_equals_log_scaling():
    cost = costs(14, 20, 6, 5, dtype=torch.float32)
    kernel, log = (sinkhorn(cost, lam=0.1, scaling=name) for name in ("kernel", "log"))
    torch.testing.assert_close(kernel.plan, log.plan, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(kernel.distance, log.distance, atol=1e-5, rtol=1e-5)
    assert torch.equal(kernel.converged, log.converged)
    assert int((kernel.iterations - log.iterations).abs().max()) <= 1


def test_auto_chooses_for_each_problem_by_itself():
    cost = costs(15, 4, 6, 5, dtype=torch.float32)
    cost[1::2] *= 10  # beyond the kernel's limit
    both = sinkhorn(cost, lam=0.1)
    kernel, log = sinkhorn(cost[::2], lam=0.1, scaling="kernel"), sinkhorn(cost[1::2], lam=0.1, scaling="log")
    torch.testing.assert_close(both.plan[::2], kernel.plan, atol=1e-7, rtol=0)
    torch.testing.assert_close(both.plan[1::2], log.plan, atol=1e-7, rtol=0)
    assert torch.equal(both.iterations[::2], kernel.iterations) and torch.equal(both.iterations[1::2], log.iterations)
    with pytest.raises(ValueError, match=f"scaling is 'kernel' but .* at most {KERNEL_LIMIT:g}"):
        sinkhorn(cost, lam=0.1, scaling="kernel")


def test_float32_kernel_is_right_up_to_its_limit():
    cost = costs(16, 50, 7, 5, high=0.999 * KERNEL_LIMIT * 0.1)
    single = sinkhorn(cost.float(), lam=0.1, scaling="kernel", max_iter=50, tol=0.0)
    double = sinkhorn(cost, lam=0.1, scaling="log", max_iter=50, tol=0.0)
    torch.testing.assert_close(single.plan.double(), double.plan, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lam", [1e-2, 1e-4, 1e-7])
def test_tiny_lambda_stays_finite(lam):
    cost = costs(17, 6, 7, 5, dtype=torch.float32).requires_grad_()
    for gradient in ("envelope", "unrolled"):
        for stop in ("marginal", "change"):
            out = sinkhorn(cost, lam=lam, gradient=gradient, stop=stop, max_iter=20)
            (grad,) = torch.autograd.grad(out.distance.sum(), cost)
            assert all(bool(torch.isfinite(x).all()) for x in (out.plan, out.distance, *out.potentials, grad))
            if lam > 1e-5:  # below, float32 cannot tell the scaled potentials apart to better than one
                assert float((out.plan.detach().sum(-2) - 0.2).abs().max()) < 0.002


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_near_two_are_computed_in_float32(dtype):
    cost = costs(18, 8, 9, 5, low=1.7, high=2.0, dtype=dtype)  # exp(-20) is zero in float16
    out, full = sinkhorn(cost, lam=0.1), sinkhorn(cost.double(), lam=0.1)
    assert out.plan.dtype == out.distance.dtype == torch.float32
    torch.testing.assert_close(out.plan.double(), full.plan, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.distance.double(), full.distance, atol=1e-5, rtol=0)


def test_autocast_does_not_reach_inside():
    cost = costs(19, 4, 6, 5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sinkhorn(cost, lam=0.1)
    assert torch.equal(inside.plan, sinkhorn(cost, lam=0.1).plan)


# ---------------------------------------------------------------- batch and masks


def test_a_problem_does_not_depend_on_its_batch_mates():
    cost = costs(20, 40, 7, 5)
    cost[::3] *= 0.05
    cost[1::3] *= 8
    together = sinkhorn(cost, lam=0.1)
    for i in range(40):
        alone = sinkhorn(cost[i], lam=0.1)
        torch.testing.assert_close(alone.plan, together.plan[i], atol=1e-14, rtol=0)
        assert alone.iterations == together.iterations[i] and alone.converged == together.converged[i]


def test_no_problem_at_all_is_an_empty_answer():
    out = sinkhorn(torch.zeros(0, 3, 2), lam=0.1)
    assert out.plan.shape == (0, 3, 2) and out.distance.shape == (0,)


@pytest.mark.parametrize("gradient", ["envelope", "unrolled"])
@pytest.mark.parametrize("scaling", ["kernel", "log"])
def test_masked_equals_shortened_in_values_and_gradients(gradient, scaling):
    cost = costs(21, 3, 6, 5)
    rows, cols = [6, 2, 4], [1, 5, 3]
    row_mask = torch.arange(6) < torch.tensor(rows)[:, None]
    col_mask = torch.arange(5) < torch.tensor(cols)[:, None]
    padded = cost.masked_fill(~(row_mask[..., None] & col_mask[:, None]), float("nan")).requires_grad_()
    out = sinkhorn(padded, lam=0.1, row_mask=row_mask, col_mask=col_mask, gradient=gradient, scaling=scaling)
    (grad,) = torch.autograd.grad((out.distance * torch.tensor([1.0, 2.0, 3.0])).sum(), padded)
    for i in range(3):
        short = cost[i, : rows[i], : cols[i]].clone().requires_grad_()
        want = sinkhorn(short, lam=0.1, gradient=gradient, scaling=scaling)
        (want_grad,) = torch.autograd.grad((i + 1) * want.distance, short)
        for got, expected in ((out.plan, want.plan), (grad, want_grad)):
            torch.testing.assert_close(got[i, : rows[i], : cols[i]], expected, atol=1e-13, rtol=0)
            assert not got[i, rows[i] :].any() and not got[i, :, cols[i] :].any()
        torch.testing.assert_close(out.distance[i], want.distance)
        assert out.iterations[i] == want.iterations


def test_masks_anywhere_not_only_at_the_end():
    cost, keep = costs(22, 5, 6), torch.tensor([False, True, True, False, True, False])
    out = sinkhorn(cost, lam=0.1, col_mask=keep)
    torch.testing.assert_close(out.plan[:, keep], sinkhorn(cost[:, keep], lam=0.1).plan)


# ---------------------------------------------------------------- gradients


def finite_difference(value, cost: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    grad = torch.zeros_like(cost)
    for i in np.ndindex(*cost.shape):
        up, down = cost.clone(), cost.clone()
        up[i] += step
        down[i] -= step
        grad[i] = (value(up) - value(down)) / (2 * step)
    return grad


@pytest.mark.parametrize("scaling", ["kernel", "log"])
def test_envelope_gradient_is_that_of_the_plan_held_fixed(scaling):
    cost = costs(23, 2, 4, 3).requires_grad_()
    out = sinkhorn(cost, lam=0.1, scaling=scaling)
    (grad,) = torch.autograd.grad(out.distance.sum(), cost)
    assert not out.plan.requires_grad and not out.potentials[0].requires_grad
    held = out.plan.clone()
    expected = finite_difference(lambda c: (held * c).sum(), cost.detach())
    torch.testing.assert_close(grad, expected, atol=1e-9, rtol=0)


def test_envelope_gradient_is_that_of_the_regularised_value():
    # Danskin: at the optimum, d/dC of <T, C> - lam h(T) is T.
    cost = costs(24, 4, 3).requires_grad_()

    def value(c):
        plan = sinkhorn(c, lam=0.1, **TIGHT).plan
        return (plan * c).sum() + 0.1 * (plan * plan.log()).sum()

    (grad,) = torch.autograd.grad(sinkhorn(cost, lam=0.1, **TIGHT).distance, cost)
    torch.testing.assert_close(grad, finite_difference(value, cost.detach()), atol=1e-8, rtol=0)


@pytest.mark.parametrize("scaling", ["kernel", "log"])
def test_unrolled_gradient_equals_finite_differences(scaling):
    options = {"lam": 0.2, "max_iter": 6, "tol": 0.0, "scaling": scaling, "gradient": "unrolled"}
    cost = costs(25, 2, 4, 3).requires_grad_()
    (grad,) = torch.autograd.grad(sinkhorn(cost, **options).distance.sum(), cost)
    expected = finite_difference(lambda c: sinkhorn(c, **options).distance.sum(), cost.detach())
    torch.testing.assert_close(grad, expected, atol=1e-8, rtol=0)
    plan = sinkhorn(cost.detach(), **options).plan
    assert float((grad - plan).abs().max()) > 1e-3, "must differ from the envelope"


@pytest.mark.parametrize("scaling", ["kernel", "log"])
def test_unrolled_gradcheck_with_masks_and_frozen_problems(scaling):
    cost = costs(26, 3, 4, 3)
    cost[0] *= 0.05  # frozen long before the others
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])

    def run(c):
        out = sinkhorn(c, lam=0.2, col_mask=mask, tol=1e-3, scaling=scaling, gradient="unrolled")
        return out.distance, out.plan, *out.potentials

    iterations = sinkhorn(cost, lam=0.2, col_mask=mask, tol=1e-3, scaling=scaling).iterations
    assert iterations.min() < iterations.max()
    assert torch.autograd.gradcheck(run, (cost.requires_grad_(),))


def test_nothing_is_recorded_under_no_grad():
    cost = costs(27, 4, 3).requires_grad_()
    with torch.no_grad():
        assert not sinkhorn(cost, lam=0.1, gradient="unrolled").distance.requires_grad


# ---------------------------------------------------------------- validation

GOOD = torch.rand(2, 3, 4)
BAD = [
    ({"lam": 0.0}, ValueError, "lam is 0.0; allowed: a finite number > 0"),
    ({"lam": float("inf")}, ValueError, "lam is inf"),
    ({"lam": "0.1"}, TypeError, r"lam is '0.1' \(str\)"),
    ({"max_iter": 0}, ValueError, "max_iter is 0; allowed: an integer >= 1"),
    ({"max_iter": 2.5}, TypeError, "max_iter is 2.5"),
    ({"tol": -1e-3}, ValueError, "tol is -0.001; allowed: a finite number >= 0"),
    ({"gradient": "unroled"}, ValueError, "gradient is 'unroled'; .* did you mean 'unrolled'"),
    ({"scaling": "logs"}, ValueError, "scaling is 'logs'; allowed: 'auto', 'kernel', 'log'; did you mean 'log'"),
    ({"stop": "marginals"}, ValueError, "stop is 'marginals'; .* did you mean 'marginal'"),
    (
        {"all_reduce_sum": torch.clone},
        ValueError,
        "all_reduce_sum is given with stop 'marginal' and group_dims 0; allowed: stop 'change' and all 1",
    ),
    ({"group_dims": 1}, ValueError, "group_dims is 1 with stop 'marginal'"),
    ({"group_dims": 2, "stop": "change"}, ValueError, "group_dims is 2; allowed: at most the 1 batch dimensions"),
    ({"cost": torch.rand(3)}, ValueError, r"cost has shape \(3,\); allowed: \(..., J, L\)"),
    ({"cost": torch.rand(3, 0)}, ValueError, "J, L >= 1"),
    ({"cost": torch.ones(2, 2, dtype=torch.int64)}, TypeError, "cost is torch.int64"),
    ({"cost": [[1.0]]}, TypeError, "cost is list"),
    ({"cost": torch.tensor([[1.0, float("nan")]])}, ValueError, "cost holds 1 non-finite of 2 values"),
    ({"row_mask": torch.ones(4, dtype=torch.bool)}, ValueError, r"row_mask has shape \(4,\); .* \(2, 3\)"),
    ({"col_mask": torch.ones(4)}, TypeError, "col_mask is torch.float32; allowed: a torch.bool tensor"),
    (
        {"col_mask": torch.tensor([[True] * 4, [False] * 4])},
        ValueError,
        "col_mask leaves a problem with no valid entry",
    ),
]


@pytest.mark.parametrize("change, error, message", BAD)
def test_bad_input_gets_one_clear_line(change, error, message):
    arguments = {"cost": GOOD, "lam": 0.1, **change}
    with pytest.raises(error, match=message) as caught:
        sinkhorn(arguments.pop("cost"), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gradient", ["envelope", "unrolled"])
@pytest.mark.parametrize("stop", ["marginal", "change"])
@pytest.mark.parametrize("scaling", ["kernel", "log"])
def test_without_a_tolerance_all_iterations_are_done(scaling: str, stop: str, gradient: str) -> None:
    """Also by a problem that is solved after the first; and what was reached is reported as with a tolerance."""
    cost = torch.rand(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    cost[1] = 1.0
    cost.requires_grad_(gradient == "unrolled")
    every = sinkhorn(cost, lam=0.2, tol=0.0, max_iter=7, scaling=scaling, stop=stop, gradient=gradient)
    least = sinkhorn(cost, lam=0.2, tol=1e-300, max_iter=7, scaling=scaling, stop=stop, gradient=gradient)
    assert every.iterations.tolist() == [7, 7, 7]
    for x, y in zip((every.plan, *every.potentials, every.error), (least.plan, *least.potentials, least.error)):
        torch.testing.assert_close(x, y)
