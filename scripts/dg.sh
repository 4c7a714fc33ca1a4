#!/usr/bin/env bash
# Domain generalisation: train on ImageNet (or mini_source), test on its shifts without further training.
#   scripts/dg.sh ALIGN all 1
# METHOD [DATASET ...] [SEED ...]: data sets are names, all (the paper's) or mini; seeds are numbers (default 1 2 3).
# DATA and OUTPUT name the folders of data sets and results; more flags: dg.sh --help.
. "$(dirname "$0")/common.sh" && exec "$python" -m experiments.protocols dg "$@"
