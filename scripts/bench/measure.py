"""Measures one training step or one evaluation batch of a method: the process behind ``step``, ``eval``, ``revisions``.

It builds the trainer that ``train.py`` builds, on random weights, K drawn class names and random images, and uses only
names that every revision of this project has, so that it can be run in another checkout.
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, build_trainer
from PIL import Image

import train
from prompting.memory import peak_bytes

WORDS = (
    "cat dog house garden bridge river mountain bottle violin guitar train bicycle airplane balloon camera "
    "lighthouse pineapple strawberry butterfly crocodile chandelier wheelbarrow typewriter accordion thunderstorm"
).split()


def class_names(number: int, seed: int = 0) -> list[str]:
    """Return names of one word (6 of 10), two (3 of 10) or three, the same for each ``number`` and ``seed``."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.choice([1] * 6 + [2] * 3 + [3]))) for _ in range(number)]


def random_checkpoint(backbone: str) -> Path:
    """Return a file of random weights for an open_clip model, written once."""
    path = Path(tempfile.gettempdir(), f"random-{backbone}.pt")
    if not path.is_file():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(backbone).state_dict(), f"{path}.{os.getpid()}")
        os.replace(f"{path}.{os.getpid()}", path)
    return path


@DATASET_REGISTRY.register()
class BenchmarkSet(DatasetBase):
    """``size`` classes with one grey image, which only the cache of Tip-Adapter-F reads."""

    size = 0

    def __init__(self, cfg: Any) -> None:
        path = Path(tempfile.mkdtemp(), "grey.png")
        Image.new("RGB", (64, 64), "grey").save(path)
        items = [Datum(str(path), i, 0, name) for i, name in enumerate(class_names(self.size))]
        super().__init__(train_x=items, val=items, test=items)


def build(case: dict[str, Any]) -> Any:
    """Return the trainer of a case: ALIGN and MMP with M = N = ``prompts``, others as in ``config`` or by default."""
    method, BenchmarkSet.size = case["method"], case["classes"]
    size = open_clip.get_model_config(case["backbone"])["vision_cfg"]["image_size"]
    words = ["--trainer", method, "--backbone", f"{case['backbone']}::{random_checkpoint(case['backbone'])}"]
    words += ["--output-dir", tempfile.mkdtemp(), "--config-file", case.get("config", "")]
    node = f"TRAINER.{TRAINER_REGISTRY.get(method).node}"
    options = {"DATASET.NAME": "BenchmarkSet", "INPUT.SIZE": (size, size), f"{node}.PREC": case["precision"]}
    if method in ("ALIGN", "MMP"):
        options |= {f"{node}.{side}_PROMPT_NUMBER": case["prompts"] for side in ("TEXT", "VISION")}
        options[f"{node}.TEXT_PROMPT_DEPTH"] = 9
    options |= {"TRAIN.MAX_MEMORY_GB": float(case["max_memory"]), "DATALOADER.TRAIN_X.BATCH_SIZE": case["images"]}
    options |= {"USE_CUDA": case["device"] == "cuda", "DATALOADER.NUM_WORKERS": 0}
    cfg = train.setup_cfg(train.parse_args([*words, *(str(word) for pair in options.items() for word in pair)]))
    torch.manual_seed(0)
    trainer = build_trainer(cfg)
    trainer.batch_idx, trainer.num_batches = 0, 2  # not the last batch: no step of the schedule
    return trainer


def seconds(run: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Return median, minimum and maximum wall time of a call, and its median CPU time (of all threads), in seconds."""
    wall, cpu = [], []
    for _ in range(repeat):
        begun = time.perf_counter(), time.process_time()
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - begun[0])
        cpu.append(time.process_time() - begun[1])
    found = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    found |= {"fastest": min(wall), "slowest": max(wall)}
    return {key: float(f"{value:.5g}") for key, value in found.items()} | {"repeat": repeat}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Return a case with the times and peak memory of its ``kind``: a training "step", or an "eval" batch."""
    trainer = build(case)
    model, stream = trainer.model, torch.Generator().manual_seed(5)
    images = torch.randn(case["images"], 3, *trainer.cfg.INPUT.SIZE, generator=stream).to(case["device"])
    labels = torch.randint(case["classes"], (case["images"],), generator=stream).to(case["device"])
    model.train(case["kind"] == "step")
    if case["path"] == "naive":  # in place of the model's forward, inside the same step
        from scripts.bench import naive

        model.forward = lambda images: naive.logits(model, images)

    def run() -> None:
        if case["kind"] == "step":
            trainer.forward_backward({"img": images, "img2": images, "label": labels})
        else:
            with torch.no_grad():
                trainer.model_inference(images)

    found = {**case, "threads": torch.get_num_threads()}
    found["learned_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if case["path"] != "naive":  # in evaluation the first batch also computes the class features, which are kept
        found["first_seconds"] = seconds(run, 1)["seconds"]
    found |= seconds(run, case["repeat"])
    return {**found, "peak_gb": round((peak_bytes(case["device"]) or 0) / 1e9, 2)}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
