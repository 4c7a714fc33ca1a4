# Sourced by the scripts of this folder: goes to the checkout and names the Python to use. A relative DATA or OUTPUT is
# that of the folder in which the script was started.
project=$(CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd) || exit
if ! [ . -ef "$project" ]; then
    case ${DATA:-/} in /* | "~"*) ;; *) export DATA=$PWD/$DATA ;; esac
    case ${OUTPUT:-/} in /* | "~"*) ;; *) export OUTPUT=$PWD/$OUTPUT ;; esac
fi
cd "$project" || exit
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
