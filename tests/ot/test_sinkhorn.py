"""One level of transport: against loops, POT, closed forms and finite differences."""

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


@pytest.mark.parametrize("scaling", ["kernel", "log"])
@pytest.mark.parametrize("max_iter, tol", [(100, 1e-2), (3, 1e-2), (1, 0.0), (7, 0.0), (200, 1e-6)])
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
@pytest.mark.parametrize("low, high, tol", [(0.0, 0.6, 1e-2), (-0.3, 0.3, 1e-2), (0.0, 0.6, 0.0)])
def test_change_stop_equals_group_loops(scaling, low, high, tol):
    cost = costs(1, 4, 3, 2, 6, 5, low=low, high=high)
    cost[0] *= 0.2
    for group_dims, groups in ((2, [(a,) for a in range(4)]), (3, [()]), (0, list(np.ndindex(4, 3, 2)))):
        out = sinkhorn(cost, lam=0.1, max_iter=40, tol=tol, stop="change", group_dims=group_dims, scaling=scaling)
        for group in groups:
            members = cost[group].reshape(-1, 6, 5).numpy()
            plans, iterations, converged = naive.solve_group(list(members), 0.1, 40, tol)
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


@pytest.mark.parametrize("lam", [0.05, 0.2, 1.0])
def test_plan_equals_pot(lam):
    cost = costs(3, 4, 9, 6)
    out = sinkhorn(cost, lam=lam, **TIGHT)
    for i in range(4):
        expected = pot.sinkhorn([], [], cost[i].numpy(), lam, numItermax=20000, stopThr=1e-13)
        np.testing.assert_allclose(out.plan[i].numpy(), expected, atol=1e-9)


SWAPPED = torch.eye(4, dtype=torch.float64)[[2, 0, 3, 1]]
A = 0.5 / (1 + np.exp(-3.0))  # the plan is [[A, B], [B, A]] by symmetry, with A / B = exp(gap / lam) and A + B = 1 / 2
CLOSED = {
    "one by one": ([[-2.0]], 0.1, [[1.0]]),
    "constant": (np.full((4, 3), 0.7), 0.1, np.full((4, 3), 1 / 12)),
    "two by two": ([[0.0, 0.3], [0.3, 0.0]], 0.1, [[A, 0.5 - A], [0.5 - A, A]]),
    "permutation": (1 - SWAPPED, 0.01, SWAPPED / 4),
}


@pytest.mark.parametrize("cost, lam, plan", CLOSED.values(), ids=CLOSED)
def test_closed_forms(cost, lam, plan):
    cost, plan = (torch.as_tensor(x, dtype=torch.float64) for x in (cost, plan))
    out = sinkhorn(cost, lam=lam, **TIGHT)
    torch.testing.assert_close(out.plan, plan, atol=1e-12, rtol=0)
    torch.testing.assert_close(out.distance, (plan * cost).sum(), atol=1e-12, rtol=0)


def test_transpose_swaps_the_roles():
    """Also the memory layout: either side may be the contiguous one, and the costs stay as they were."""
    cost = costs(7, 3, 6, 4)
    before = cost.clone()
    out, swapped = sinkhorn(cost, lam=0.1, **TIGHT), sinkhorn(cost.mT, lam=0.1, **TIGHT)
    torch.testing.assert_close(out.plan, swapped.plan.mT, atol=1e-11, rtol=0)
    assert torch.equal(cost, before)


def test_potentials_rebuild_the_plan():
    cost, mask = costs(13, 3, 6, 4), torch.tensor([True, True, False, True])
    for lam in (0.1, 0.004):  # kernel and log
        out = sinkhorn(cost, lam=lam, col_mask=mask)
        f, g = out.potentials
        plan = torch.exp((f.unsqueeze(-1) + g.unsqueeze(-2) - cost) / lam)
        torch.testing.assert_close(plan[..., mask], out.plan[..., mask], atol=1e-12, rtol=1e-9)
        assert float(out.potentials[1][..., 2].abs().max()) == 0


# ---------------------------------------------------------------- scalings and precision


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


@pytest.mark.parametrize("lam", [1e-2, 1e-4, 3e-7])
def test_tiny_lambda_stays_finite_with_exact_column_sums(lam):
    cost = costs(17, 6, 7, 5, dtype=torch.float32).requires_grad_()
    for gradient in ("envelope", "unrolled"):
        for stop in ("marginal", "change"):
            out = sinkhorn(cost, lam=lam, gradient=gradient, stop=stop, max_iter=20)
            (grad,) = torch.autograd.grad(out.distance.sum(), cost)
            assert all(bool(torch.isfinite(x).all()) for x in (out.plan, out.distance, *out.potentials, grad))
            assert float((out.plan.detach().sum(-2) - 0.2).abs().max()) < 1e-6
            assert float(out.distance.detach().max()) <= 2, "a mean of costs"


@pytest.mark.parametrize("dtype, smallest", [(torch.float32, 2e-7), (torch.float64, 4e-16)])
def test_costs_beyond_the_resolution_of_the_dtype_are_refused(dtype, smallest):
    cost = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=dtype)
    assert sinkhorn(cost, lam=2 * smallest).plan.tolist() == [[0.5, 0], [0, 0.5]]
    for lam in (smallest, 1e-12 * smallest, 1e-320):
        with pytest.raises(ValueError, match=f"lam is {lam:g}, too small for these costs: .* at most [48]"):
            sinkhorn(cost, lam=lam)
    with pytest.raises(ValueError, match="lam is 0.1, too small"):
        sinkhorn(cost * 1e30, lam=0.1)


@pytest.mark.parametrize("scaling", ["kernel", "log"])
@pytest.mark.parametrize("gradient", ["envelope", "unrolled"])
def test_column_sums_and_mass_hold_without_convergence(scaling, gradient):
    cost = costs(30, 40, 9, 7, high=3.9, dtype=torch.float32).requires_grad_(gradient == "unrolled")
    out = sinkhorn(cost, lam=0.1, max_iter=1, tol=1e-6, scaling=scaling, gradient=gradient)
    assert not out.converged.any() and float(out.error.detach().min()) > 0.01
    assert float((out.plan.detach().sum(-2) - 1 / 7).abs().max()) < 1e-6
    torch.testing.assert_close(out.error, (out.plan.detach().sum(-1) - 1 / 9).abs().sum(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lam", [0.1, 0.004])  # kernel and log
@pytest.mark.parametrize("max_iter", [1, 200])
def test_entropy_is_that_of_the_plan(lam, max_iter):
    cost = costs(31, 6, 5, 4)
    rows, cols = torch.arange(5) < torch.tensor([5, 1, 3, 5, 2, 4])[:, None], torch.tensor([True, False, True, True])
    for masks in ({}, {"row_mask": rows, "col_mask": cols}):
        out = sinkhorn(cost, lam=lam, max_iter=max_iter, **masks)
        for plan, entropy in zip(out.plan, out.entropy):
            assert float(entropy) == pytest.approx(-sum(p * np.log(p) for p in plan.flatten().tolist() if p > 0))
    assert float(sinkhorn(torch.zeros(5, 4), lam=lam).entropy) == pytest.approx(np.log(20))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_near_two_are_computed_in_float32(dtype):
    cost = costs(18, 8, 9, 5, low=1.7, high=2.0, dtype=dtype)  # exp(-20) is zero in float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sinkhorn(cost, lam=0.1)
    full = sinkhorn(cost.double(), lam=0.1)
    assert out.plan.dtype == out.distance.dtype == torch.float32
    torch.testing.assert_close(out.plan.double(), full.plan, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.distance.double(), full.distance, atol=1e-5, rtol=0)


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
def test_envelope_gradient_is_the_plan(scaling):
    cost = costs(23, 2, 4, 3).requires_grad_()
    out = sinkhorn(cost, lam=0.1, scaling=scaling)
    (grad,) = torch.autograd.grad(out.distance.sum(), cost)
    assert not out.plan.requires_grad and not out.potentials[0].requires_grad
    torch.testing.assert_close(grad, out.plan, atol=1e-12, rtol=0)


def test_envelope_gradient_is_that_of_the_regularised_value():
    # Danskin: at the optimum, d/dC of <T, C> - lam h(T) is T.
    cost = costs(24, 4, 3).requires_grad_()

    def value(c):
        plan = sinkhorn(c, lam=0.1, **TIGHT).plan
        return (plan * c).sum() + 0.1 * (plan * plan.log()).sum()

    (grad,) = torch.autograd.grad(sinkhorn(cost, lam=0.1, **TIGHT).distance, cost)
    torch.testing.assert_close(grad, finite_difference(value, cost.detach()), atol=1e-8, rtol=0)


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
    with torch.no_grad():
        assert not any(value.requires_grad for value in run(cost))


# ---------------------------------------------------------------- validation

GOOD = torch.rand(2, 3, 4)
BAD = [
    ({"lam": 0.0}, ValueError, "lam is 0.0; allowed: a finite number > 0"),
    ({"lam": float("inf")}, ValueError, "lam is inf"),
    ({"lam": "0.1"}, TypeError, r"lam is '0.1' \(str\)"),
    ({"max_iter": 0}, ValueError, "max_iter is 0; allowed: an integer >= 1"),
    ({"max_iter": 2.5}, TypeError, "max_iter is 2.5"),
    ({"max_iter": True}, TypeError, "max_iter is True"),
    ({"tol": -1e-3}, ValueError, "tol is -0.001; allowed: a finite number >= 0"),
    ({"gradient": "unroled"}, ValueError, "gradient is 'unroled'; .* did you mean 'unrolled'"),
    ({"scaling": "logs"}, ValueError, "scaling is 'logs'; allowed: 'auto', 'kernel', 'log'; did you mean 'log'"),
    ({"stop": "marginals"}, ValueError, "stop is 'marginals'; .* did you mean 'marginal'"),
    ({"all_reduce_sum": torch.clone}, ValueError, "all_reduce_sum is given with stop 'marginal' .* allowed: stop"),
    ({"group_dims": 1}, ValueError, "group_dims is 1 with stop 'marginal'"),
    ({"group_dims": 2, "stop": "change"}, ValueError, "group_dims is 2; allowed: at most the 1 batch dimensions"),
    ({"cost": torch.rand(3)}, ValueError, r"cost has shape \(3,\); allowed: \(..., J, L\)"),
    ({"cost": torch.rand(3, 0)}, ValueError, "J, L >= 1"),
    ({"cost": torch.ones(2, 2, dtype=torch.int64)}, TypeError, "cost is torch.int64"),
    ({"cost": [[1.0]]}, TypeError, "cost is list"),
    ({"cost": torch.tensor([[1.0, float("nan")]])}, ValueError, "cost holds 1 non-finite of 2 values"),
    ({"row_mask": torch.ones(4, dtype=torch.bool)}, ValueError, r"row_mask has shape \(4,\); .* \(2, 3\)"),
    ({"col_mask": torch.ones(4)}, TypeError, "col_mask is torch.float32; allowed: a torch.bool tensor"),
    ({"col_mask": torch.tensor([[True] * 4, [False] * 4])}, ValueError, "col_mask leaves a problem with no valid"),
]


@pytest.mark.parametrize("change, error, message", BAD)
def test_bad_input_gets_one_clear_line(change, error, message):
    arguments = {"cost": GOOD, "lam": 0.1, **change}
    with pytest.raises(error, match=message) as caught:
        sinkhorn(arguments.pop("cost"), **arguments)
    assert "\n" not in str(caught.value)
