"""Benchmark of a training step (forward, loss, backward, optimizer) against the naive path.

python -m scripts.bench.step                                          # K 10 .. 1000
python -m scripts.bench.step --class-counts 1000 --max-memory 8
python -m scripts.bench.step --device cuda --precision bf16 --batch-size 4 100 --max-memory 0
"""

import sys

from scripts.bench.running import main

if __name__ == "__main__":
    sys.exit(main("step", __doc__))
