"""Benchmark of an evaluation batch (class features are kept between batches) against the naive path.

python -m scripts.bench.eval                                          # K 10 .. 1000
python -m scripts.bench.eval --device cuda --precision bf16 --batch-size 4 100 --max-memory 0
"""

import sys

from scripts.bench.running import main

if __name__ == "__main__":
    sys.exit(main("eval", __doc__))
