"""Which precision a device gets, what is stored how, and that learned tensors stay float32."""

import pytest
import torch
from torch import nn

from prompting import precision
from prompting.precision import Precision


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_warned", set())


def small_model() -> nn.Module:
    """One frozen and one learned layer, a norm, and a scale."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.scale = nn.Parameter(torch.tensor(2.0))
    model.requires_grad_(False)[3].requires_grad_(True)
    return model


def names(device: str, *precs: str) -> list[str]:
    return [Precision.resolve(prec, device).name for prec in precs]


def test_what_a_cpu_runs(caplog: pytest.LogCaptureFixture) -> None:
    assert names("cpu", "auto", "fp32", "bf16") == ["fp32", "fp32", "bf16"] and not caplog.messages
    assert names("cpu", "fp16", "fp16") == ["fp32"] * 2
    assert caplog.messages == ["precision fp16 does not run on cpu: using fp32"]
    with Precision.resolve("fp32").autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_what_cuda_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A resolution needs no device, so it is tested without one."""
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: f"scaler on {device}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert names("cuda:0", "auto", "fp32", "amp", "fp16", "bf16") == ["fp16", "fp32", "amp", "fp16", "bf16"]
    scaled = {prec for prec in precision.PRECISIONS if Precision.resolve(prec, "cuda").scaler}
    assert scaled == {"auto", "amp", "fp16"} and not caplog.messages
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert names("cuda", "bf16") == ["fp32"] and len(caplog.messages) == 1


def test_unknown_precision() -> None:
    for ask in (Precision.check, Precision.resolve):
        with pytest.raises(ValueError, match="precision is 'fp61'; allowed: .*did you mean"):
            ask("fp61")


def test_cast_keeps_what_is_learned_and_the_norms() -> None:
    model = Precision.resolve("bf16").cast_(small_model())
    other = {name for name, value in model.named_parameters() if value.dtype != torch.float32}
    assert other == {"0.weight", "0.bias"} and model[0].weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in Precision.resolve("fp32").cast_(model).parameters())


ON_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize(
    ("prec", "device", "dtype"),
    [
        ("bf16", "cpu", torch.bfloat16),
        pytest.param("amp", "cuda", torch.float16, marks=ON_CUDA),
        pytest.param("fp16", "cuda", torch.float16, marks=ON_CUDA),
    ],
)
def test_half_precision_trains_float32_tensors(prec: str, device: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    resolved = Precision.resolve(prec, device)
    model = resolved.cast_(small_model()).eval().to(device)
    optim = torch.optim.SGD(model[3].parameters(), lr=0.1, momentum=0.9)
    before = model[3].weight.clone()
    with resolved.autocast():
        out = model(torch.randn(8, 4, device=device))
    resolved.backward_and_step(out.float().pow(2).mean(), optim)
    assert out.dtype == dtype and model[3].weight.dtype == model[3].weight.grad.dtype == torch.float32
    assert torch.equal(before, model[3].weight) == bool(resolved.skipped.total)
    assert all(s["momentum_buffer"].dtype == torch.float32 for s in optim.state.values())


@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu")], ids=["plain", "scaled"])
def test_a_step_of_gradient_descent(scaler: torch.amp.GradScaler | None) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    weight.grad = torch.full_like(weight, 7.0)  # left over from the last step
    optim = torch.optim.SGD([weight], lr=0.1)
    Precision("fp32", torch.device("cpu"), scaler).backward_and_step(weight.pow(3).sum(), optim)
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0 - 0.1 * 3, -2.0 - 0.1 * 12]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(value: float) -> None:
    weight = nn.Parameter(torch.ones(1))
    optim = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(FloatingPointError, match=f"the loss is {value} under precision fp32"):
        Precision.resolve("fp32").backward_and_step(weight.sum() * value, optim)
    assert weight.item() == 1


class BadGradient(torch.autograd.Function):
    """Multiplies the gradient, not the value."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


def test_a_gradient_that_is_no_number_stops_before_the_step() -> None:
    weight = nn.Parameter(torch.ones(3))
    optim = torch.optim.SGD([weight], lr=0.1)
    loss = BadGradient.apply(weight, torch.tensor([1.0, float("inf"), float("nan")])).sum()
    with pytest.raises(FloatingPointError, match="the gradient of ctx holds 2 NaN or infinite of 3 values under"):
        Precision.resolve("fp32").backward_and_step(loss, optim, learned={"ctx": weight})
    assert weight.tolist() == [1, 1, 1]
    weight.data[0] = float("nan")  # and, as the first thing that went wrong, a learned tensor
    with pytest.raises(FloatingPointError, match="the learned tensor 0 holds 1 NaN"):
        Precision.resolve("fp32").backward_and_step(weight.sum(), optim)


def test_the_scaler_judges_gradients_after_unscaling_and_may_skip_nine_steps_in_a_row() -> None:
    weight = nn.Parameter(torch.ones(1))
    optim, scaler = torch.optim.SGD([weight], lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    prec = Precision("fp16", torch.device("cpu"), scaler)

    def step(factor: float) -> float:
        prec.backward_and_step(BadGradient.apply(weight, factor).sum(), optim)
        return weight.item()

    assert step(1e33) == pytest.approx(-1e32) and prec.skipped.total == 0  # 65,536 times as much still fits float32
    weight.data.fill_(1.0)
    assert step(1e35) == 1 and scaler.get_scale() == 2**15 and prec.skipped.total == 1
    while scaler.get_scale() > 2**11:
        assert step(1e35) == 1
    assert step(1e35) != 1, "the lower scale lets it pass"
    weight.data.fill_(1.0)
    before = prec.skipped.total
    for _ in range(9):
        step(float("inf"))
    step(0.0)
    for _ in range(9):
        step(float("inf"))
    assert (prec.skipped.total - before, prec.skipped.in_a_row) == (18, 9)
    words = "the gradient of 0 is inf under precision fp16 in 10 steps in a row, at"
    with pytest.raises(FloatingPointError, match=words):
        step(float("inf"))
    assert weight.item() == 1
