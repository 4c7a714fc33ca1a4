#!/usr/bin/env bash
# Few-shot: 1, 2, 4, 8, 16 images of every class (--shots), test on all classes.
#   scripts/fewshot.sh ALIGN mini_source 1 --shots 1 2 4
# METHOD [DATASET ...] [SEED ...]: data sets are names, all (the paper's) or mini; seeds are numbers (default 1 2 3).
# DATA and OUTPUT name the folders of data sets and results; more flags: fewshot.sh --help.
. "$(dirname "$0")/common.sh" && exec "$python" -m experiments.protocols fewshot "$@"
