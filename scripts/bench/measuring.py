"""What is measured and how: times, floating point operations, the matrix-product ceiling, peak memory, the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

PACKAGES = ("torch", "open_clip_torch", "POT", "geomloss", "triton")
KINDS = {  # how the names of operators start
    "products": tuple(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution")),
    "attention": ("aten::_scaled_dot_product",),
}


class Times(NamedTuple):
    """Seconds of one call: on the clock, and on the processor (all threads together; others' load hardly moves it)."""

    wall: float
    cpu: float


def settle() -> None:
    """Wait until a CUDA device has done what it was given, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], repeat: int) -> list[Times]:
    """Return the times of each of ``repeat`` calls."""
    times = []
    for _ in range(repeat):
        settle()
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        settle()
        times.append(Times(time.perf_counter() - wall, time.process_time() - cpu))
    return times


def summary(times: list[Times]) -> dict[str, Any]:
    """Return the median, the extremes and the number of some times."""
    wall, cpu = zip(*times)
    return {
        "seconds": round(statistics.median(wall), 6),
        "fastest": round(min(wall), 6),
        "slowest": round(max(wall), 6),
        "cpu_seconds": round(statistics.median(cpu), 6),
        "repeats": len(times),
    }


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating point operations of matrix products, convolutions and attention in ``run()``."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(up: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_backward_flop_count(up, query, key, value)

    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def spent_on(run: Callable[[], Any]) -> dict[str, float]:
    """Return which share of the time that a CPU's operators take in ``run()`` goes into which kind of them: the keys of
    ``KINDS`` and ``rest``."""
    from torch.profiler import ProfilerActivity, profile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on cycles, of which this has one
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run()
        time_of = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    shares = {kind: 0.0 for kind in (*KINDS, "rest")}
    for name, taken in time_of.items():
        kind = next((kind for kind, starts in KINDS.items() if name.startswith(starts)), "rest")
        shares[kind] += taken / sum(time_of.values())
    return {kind: round(share, 3) for kind, share in shares.items()}


def computed_in(precision: str) -> torch.dtype:
    """Return the dtype in which a precision multiplies matrices."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision, torch.float16)


def matmul_ceiling(device: str = "cpu", dtype: torch.dtype = torch.float32, repeat: int = 20) -> Times:
    """Return the most FLOP/s (by the clock, and a second of processor time) that a matrix product reached.

    On a CPU its size is that of the MLP of a ViT-B for 16 images, on a GPU one that fills the device.
    """
    rows, inner, columns = (3184, 768, 3072) if device == "cpu" else (8192, 8192, 8192)
    a, b = (torch.randn(size, device=device, dtype=dtype) for size in ((rows, inner), (inner, columns)))
    a @ b
    times = seconds(lambda: a @ b, repeat)
    return Times(*(2 * rows * inner * columns / min(part) for part in zip(*times)))


def against_ceiling(found: dict[str, Any], ceilings: list[Times]) -> None:
    """Put the matrix-product ceiling, measured around the run, into ``found``, and the share of it that was reached."""
    wall, cpu = (max(part) for part in zip(*ceilings))
    found["ceiling_gflops"], found["ceiling_gflops_per_cpu_second"] = round(wall / 1e9, 1), round(cpu / 1e9, 1)
    if "flops" in found:
        found["share_of_ceiling"] = round(found["flops"] / found["seconds"] / wall, 3)
        found["share_of_ceiling_cpu"] = round(found["flops"] / found["cpu_seconds"] / cpu, 3)


def versions() -> dict[str, str]:
    """Return the versions of the packages that the figures depend on, of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what the figures were measured on: kinds and versions, nothing that names one machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    keys = ("cpu family", "model", "model name")
    return {
        "cpu": ", ".join(f"{key} {fields[key]}" for key in keys if key in fields) or platform.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions(),
    }
