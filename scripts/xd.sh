#!/usr/bin/env bash
# Cross-data-set: train on ImageNet (or mini_source), test on the other data sets without further training.
#   scripts/xd.sh ALIGN mini 1
# METHOD [DATASET ...] [SEED ...]: data sets are names, all (the paper's) or mini; seeds are numbers (default 1 2 3).
# DATA and OUTPUT name the folders of data sets and results; more flags: xd.sh --help.
. "$(dirname "$0")/common.sh" && exec "$python" -m experiments.protocols xd "$@"
