"""Benchmark of a training step, ours and the naive path: forward, loss, backward, optimizer.

python -m scripts.bench.step                                          # K 10 .. 1000
python -m scripts.bench.step --class-counts 1000 --max-memory 8
python -m scripts.bench.step --device cuda --precision bf16 --batch-size 4 100 --max-memory 0
"""

import sys

from scripts.bench.running import main

if __name__ == "__main__":
    sys.exit(main("step", __doc__))
