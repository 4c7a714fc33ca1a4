#!/usr/bin/env bash
# Do data sets, class names, sentences, splits and weights give the published figures?
#   scripts/verify.sh /path/to/data                 zero-shot CLIP on every data set that is there
#   scripts/verify.sh /path/to/data --tuned CoOp    and one published cell of base-to-new, one seed
# OUTPUT names the folder of the results; more flags: verify.sh --help.
cd "$(dirname "$0")/.." && exec "${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}" \
    -m experiments.verify "$@"
