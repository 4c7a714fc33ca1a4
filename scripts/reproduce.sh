#!/usr/bin/env bash
# A whole table, from the folder of data sets to the table; without arguments it says how it is called.
cd "$(dirname "$0")/.." && exec "${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}" \
    -m experiments.reproduce "$@"
