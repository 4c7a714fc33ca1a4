#!/usr/bin/env bash
# Execute the missing runs of a table, then print and write the table.
#   DATA=/path/to/data scripts/reproduce.sh base2new ALIGN MaPLe CoOp
#   DATASETS=mini scripts/reproduce.sh xd all
# TABLE (base2new, xd, dg, fewshot) METHOD ... (or all). DATA, OUTPUT (folders), DATASETS (names, all or mini; default
# all), SEEDS (default "1 2 3"), SWEEP (more flags of sweep, such as "--executor slurm --slurm partition=gpu").
# The table goes to the terminal and to OUTPUT/<table>.md and .csv, the few-shot picture to OUTPUT/fewshot.png.
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
output=${OUTPUT:-output} table=$1
grid=(--methods "${@:2}" --datasets ${DATASETS:-all} --seeds ${SEEDS:-1 2 3})
show() { "$python" -m experiments.tables "$output" --table "$table" "${grid[@]}" "$@"; }

"$python" -m experiments.sweep --protocol "$table" "${grid[@]}" --root "${DATA:-data}" --output "$output" $SWEEP
status=$?
[ $status != 130 ] || exit 130  # interrupted: a table would lack the rest
if [ "$table" = fewshot ]; then show --plot "$output/fewshot.png"; else show; fi || exit
show --format markdown > "$output/$table.md"
show --format csv > "$output/$table.csv" 2> /dev/null
echo "Written: $output/$table.md, $output/$table.csv$([ "$table" != fewshot ] || echo ", $output/fewshot.png")"
exit $status
