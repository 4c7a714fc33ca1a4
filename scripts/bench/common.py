"""What the benchmarks share: models of real shapes with random weights, one process a case, and what is measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "scripts" / "bench" / "results"
WORDS = (
    "cat dog house garden bridge river mountain bottle violin guitar train bicycle airplane balloon camera "
    "lighthouse pineapple strawberry butterfly crocodile chandelier wheelbarrow typewriter accordion thunderstorm"
).split()


def class_names(number: int, seed: int = 0) -> list[str]:
    """Return names of one word (6 of 10), two (3 of 10) or three, drawn once for each ``number`` and ``seed``."""
    stream = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1] * 6 + [2] * 3 + [3])[torch.randint(10, (number,), generator=stream)]
    draw = torch.randint(len(WORDS), (number, 3), generator=stream)
    return [" ".join(WORDS[i] for i in row[:size]) for row, size in zip(draw.tolist(), lengths.tolist())]


def align_model(backbone: str, classes: int, prompts: int, seed: int = 0) -> Any:
    """Return ALIGN in the `released` reading (b = 2, depth 9, M = N = ``prompts``) on random weights of a backbone."""
    import open_clip
    from dassl.config import get_cfg_default

    import trainers
    from trainers.align import ReleasedCLIP

    torch.manual_seed(seed)
    clip = open_clip.create_model(backbone)
    cfg = get_cfg_default()
    trainers.extend_cfg(cfg)
    own = {"TEXT_PROMPT_NUMBER": prompts, "VISION_PROMPT_NUMBER": prompts, "TEXT_PROMPT_DEPTH": 9}
    for key, value in own.items():
        cfg.TRAINER.MMP[key] = value
    return ReleasedCLIP(cfg, class_names(classes), clip)


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


class Times(NamedTuple):
    """Seconds of one call: on the clock, and on the processor (all threads together; others' load hardly moves it)."""

    wall: float
    cpu: float


def seconds(run: Callable[[], Any], repeat: int) -> list[Times]:
    """Return the times of each of ``repeat`` calls."""
    times = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        times.append(Times(time.perf_counter() - wall, time.process_time() - cpu))
    return times


def matmul_ceiling(rows: int = 3184, inner: int = 768, columns: int = 3072, repeat: int = 9) -> Times:
    """Return the FLOP/s (by the clock, and a second of processor time) of a float32 matrix product.

    Its size is that of the MLP of a ViT-B for 16 images.
    """
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    a @ b
    times = seconds(lambda: a @ b, repeat)
    return Times(*(2 * rows * inner * columns / statistics.median(part) for part in zip(*times)))


def peak_bytes() -> int:
    """Return the most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    keys = ("vendor_id", "cpu family", "model", "model name")
    return {
        "cpu": ", ".join(f"{key} {fields[key]}" for key in keys if key in fields) or platform.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def in_a_process(module: str, case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a process of its own, so that its peak memory is its own, and return what it measured."""
    words = [sys.executable, "-m", module, "--case", json.dumps(case)]
    done = subprocess.run(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {**case, "failed": f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def run_cases(module: str, cases: list[dict[str, Any]], out: Path) -> None:
    """Measure the cases one after the other; write all results after each, and a line each to the console."""
    results: list[dict[str, Any]] = []
    for case in cases:
        results.append({**in_a_process(module, case), "load": round(os.getloadavg()[0], 1)})
        sys.stdout.write(json.dumps(results[-1]) + "\n")
        sys.stdout.flush()
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


def summary(times: list[Times]) -> dict[str, Any]:
    """Return the median, the extremes and the number of some times."""
    wall, cpu = zip(*times)
    return {
        "seconds": round(statistics.median(wall), 4),
        "fastest": round(min(wall), 4),
        "slowest": round(max(wall), 4),
        "cpu_seconds": round(statistics.median(cpu), 4),
        "repeats": len(times),
    }


def against_ceiling(found: dict[str, Any], ceilings: list[Times]) -> None:
    """Put the matrix-product ceiling, measured around the run, into ``found``, and the share of it that was reached."""
    wall, cpu = (statistics.mean(part) for part in zip(*ceilings))
    found["ceiling_gflops"], found["ceiling_gflops_per_cpu_second"] = round(wall / 1e9, 1), round(cpu / 1e9, 1)
    if "flops" in found:
        found["share_of_ceiling"] = round(found["flops"] / found["seconds"] / wall, 3)
        found["share_of_ceiling_cpu"] = round(found["flops"] / found["cpu_seconds"] / cpu, 3)


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments that the benchmarks of the towers share."""
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 50, 100, 500, 1000], help="K")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4], help="M = N")
    parser.add_argument("--images", type=int, default=4, help="B")
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu", help="an open_clip model; its weights are random")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--naive-up-to", type=int, default=50, help="the most classes the naive path is run with")
    parser.add_argument("--naive-repeat", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / out)
    parser.add_argument("--case", help=argparse.SUPPRESS)


def cases_of(args: argparse.Namespace, **ours: Any) -> list[dict[str, Any]]:
    """Return the cases that the arguments ask for, ours first and the naive path where it is wanted."""
    cases = []
    for prompts in args.prompts:
        for classes in args.classes:
            shared = {"classes": classes, "prompts": prompts, "images": args.images, "backbone": args.backbone}
            shared["threads"] = args.threads
            cases.append({"path": "ours", **shared, "repeat": args.repeat, **ours})
            if classes <= args.naive_up_to:
                cases.append({"path": "naive", **shared, "repeat": args.naive_repeat})
    return cases


def build(case: dict[str, Any]) -> Any:
    """Return the model of a case, and set the threads it asks for."""
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    return align_model(case["backbone"], case["classes"], case["prompts"])


def drawn_batch(model: Any, images: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return random images and labels for a model."""
    stream = torch.Generator().manual_seed(5)
    pictures = torch.randn(images, 3, *model.shape.image_size, generator=stream)
    return pictures, torch.randint(classes, (images,), generator=stream)
