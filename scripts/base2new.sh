#!/usr/bin/env bash
# Base-to-new: train on half of the classes, test on both halves.
#   scripts/base2new.sh ALIGN caltech101 1
# METHOD [DATASET ...] [SEED ...]: data sets are names, all (the paper's) or mini; seeds are numbers (default 1 2 3).
# DATA and OUTPUT name the folders of data sets and results; more flags: base2new.sh --help.
. "$(dirname "$0")/common.sh" && exec "$python" -m experiments.protocols base2new "$@"
