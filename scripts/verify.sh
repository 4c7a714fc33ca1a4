#!/usr/bin/env bash
# Do data sets, class names, sentences, splits and weights give the published figures?
#   scripts/verify.sh /path/to/data                 zero-shot CLIP on every data set that is there
#   scripts/verify.sh /path/to/data --tuned CoOp    and one published cell of base-to-new, one seed
# OUTPUT names the folder of the results; more flags: verify.sh --help.
case $1 in "" | -* | /* | "~"*) ;; *) set -- "$PWD/$1" "${@:2}" ;; esac
. "$(dirname "$0")/common.sh" && exec "$python" -m experiments.verify "$@"
