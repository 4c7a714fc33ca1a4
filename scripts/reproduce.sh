#!/usr/bin/env bash
# Execute the missing runs of a table, then print and write the table.
#   DATA=/path/to/data scripts/reproduce.sh base2new ALIGN MaPLe CoOp
#   DATASETS=mini scripts/reproduce.sh xd all
# TABLE (base2new, xd, dg, fewshot) METHOD ... (or all). DATA, OUTPUT (folders), DATASETS (names, all or mini; default
# all), SEEDS (default "1 2 3"), SWEEP (more flags of sweep, such as "--executor slurm --slurm partition=gpu").
# The table goes to the terminal and to OUTPUT/<table>.md and .csv, the few-shot picture to OUTPUT/fewshot.png.
. "$(dirname "$0")/common.sh" || exit
[ $# -ge 2 ] || { sed -n '2,7s/^# //p' scripts/reproduce.sh >&2; exit 2; }
set -f  # DATASETS, SEEDS and SWEEP are lists of words, not of files
output=${OUTPUT:-output} table=$1
grid=(--methods "${@:2}" --datasets ${DATASETS:-all} --seeds ${SEEDS:-1 2 3})
show() { "$python" -m experiments.tables "$output" --table "$table" "${grid[@]}" "$@"; }

"$python" -m experiments.sweep --protocol "$table" "${grid[@]}" --root "${DATA:-data}" --output-dir "$output" $SWEEP
status=$?
[ $status -lt 2 ] || exit $status  # a mistake in the words, or interrupted: a table would lack the rest
mkdir -p "$output" && new=$(mktemp -d "$output/.table.XXXXXX") || exit
trap 'rm -r "$new"' EXIT
if [ $status != 0 ]; then  # the last whole table stays
  show || exit
  echo "Not written, as runs are missing: $output/$table.md" >&2
  exit $status
fi
plot=()
[ "$table" != fewshot ] || plot=(--plot "$new/fewshot.png")
show --format markdown "${plot[@]}" > "$new/$table.md" && show --format csv > "$new/$table.csv" 2> /dev/null || exit
set +f
mv "$new"/* "$output/" || exit
show
echo "Written: $output/$table.md, $output/$table.csv$([ "$table" != fewshot ] || echo ", $output/fewshot.png")"
