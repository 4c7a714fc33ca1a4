"""Size, peak memory and speed of one form of a model, measured in a new process.

    python -m prompting.export.measure SOURCE IMAGES.npy

SOURCE is a run's folder, a safetensors file next to load_model.py, or an ONNX file. Prints one JSON object.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from prompting.process import peak_bytes

BATCH = 32


def measure(source: Path, images: np.ndarray) -> dict[str, float]:
    """Return ``peak_mb``, ``images_per_second`` and ``images_per_cpu_second`` of a form, from a new process.

    Raises:
        RuntimeError: the process failed; the message holds its last line.
    """
    from prompting.files import naming  # not above: the new process would measure its memory, too

    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "images.npy")
        with naming(file):
            np.save(file, images)
        # -B: importing load_model.py leaves no __pycache__ in the exported folder
        words = [sys.executable, "-B", "-m", "prompting.export.measure", str(source), str(file)]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"measuring {source} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def scorer(source: Path) -> Callable[[np.ndarray], Any]:
    """Return the function that scores a batch (B, 3, H, W); what it imports is part of the measured memory."""
    if source.suffix == ".onnx":
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]

        session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, {"images": batch})
    import torch

    if source.is_dir():
        from prompting.classifier import Classifier

        classifier = Classifier.load(source, device="cpu", precision="fp32")
        return lambda batch: classifier(torch.from_numpy(batch))
    sys.path.insert(0, str(source.parent))
    model = import_module("load_model").load(str(source))
    return lambda batch: model(torch.from_numpy(batch))


def main() -> None:
    """Measure one form and print the result."""
    source, images = Path(sys.argv[1]), np.load(sys.argv[2])
    score = scorer(source)
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    score(batches[0])
    start, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        score(batch)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    speed = {"images_per_second": len(images) / seconds, "images_per_cpu_second": len(images) / cpu}
    print(json.dumps({"peak_mb": (peak_bytes() or math.nan) / 1e6, **speed}))


if __name__ == "__main__":
    main()
