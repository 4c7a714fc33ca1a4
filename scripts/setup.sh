#!/usr/bin/env bash
# Make .venv, in which everything here runs. The packages of requirements.lock are installed once in the user's cache
# and shared by all checkouts with the same lock file; .venv is small and holds this checkout's packages (editable) and
# the commands. A .venv of your own is used as it is. engine/ is installed only where `import dassl` fails.
#   PYTHON  the interpreter to use (default python3; 3.10 or later)
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."
python=${PYTHON:-python3}
stop() { echo "setup: $1" >&2; exit 1; }
install() {  # a folder with a pyproject.toml, editable, without its dependencies
    .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps $isolation -e "$1" ||
        stop "$1 did not install (the messages are above)"
}

if [ -d .venv ] && [ ! -e .venv/base ]; then
    .venv/bin/python -c 'import torch, torchvision, open_clip, yacs' 2>/dev/null ||
        stop ".venv is yours and lacks packages: run .venv/bin/pip install -r requirements.txt, or move it away"
    isolation=
else
    isolation=--no-build-isolation  # setuptools is among the shared packages
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        stop "$python is missing or older than 3.10; name another: PYTHON=/path/to/python make setup"
    key=$("$python" - <<'PY'
import hashlib, sys
print("py%d.%d-" % sys.version_info[:2] + hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest()[:12])
PY
)
    [ -n "${XDG_CACHE_HOME:-${HOME:-}}" ] || stop "there is no home folder: name one for the packages in XDG_CACHE_HOME"
    base=${XDG_CACHE_HOME:-$HOME/.cache}/align-clip/$key
    if [ ! -e "$base/complete" ] && command -v flock > /dev/null; then  # one setup at a time
        mkdir -p "$(dirname "$base")"
        exec 9> "$base.lock"
        flock 9
    fi
    if [ ! -e "$base/complete" ]; then
        echo "setup: installing the packages of requirements.lock into $base (about 5 GB, some minutes)"
        mkdir -p "$(dirname "$base")"
        rm -rf "$base"
        "$python" -m venv "$base" || stop "$python cannot make virtual environments; on Debian: apt install python3-venv"
        "$base/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --require-hashes --no-deps \
            -r requirements.lock || stop "the installation failed (its messages are above); run make setup to retry"
        touch "$base/complete"
    fi
    if [ "$(cat .venv/base 2>/dev/null || true)" != "$base" ] || [ pyproject.toml -nt .venv/base ]; then
        mkdir -p .venv && echo unfinished > .venv/base  # so that a setup that was interrupted is not taken for yours
        find .venv -mindepth 1 -maxdepth 1 ! -name base -exec rm -rf {} +
        "$python" -m venv --without-pip .venv
        site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        shared=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        "$python" -c 'import sys; print(f"import site; site.addsitedir({sys.argv[1]!r})")' "$shared" > "$site/shared-packages.pth"
        for command in "$base"/bin/*; do  # torchrun, tensorboard, pip, ... with this .venv's interpreter
            wrapper=.venv/bin/$(basename "$command")
            if [ -e "$wrapper" ]; then
                continue
            elif head -n 1 "$command" | grep -qa '^#!'; then
                printf '#!/bin/sh\nexec "%s/.venv/bin/python" "%s" "$@"\n' "$PWD" "$command" > "$wrapper"
                chmod +x "$wrapper"
            else
                ln -s "$command" "$wrapper"
            fi
        done
        install .
        echo "$base" > .venv/base
        echo "setup: .venv is ready; 'source .venv/bin/activate' makes its python and align-clip those of the shell"
    fi
fi

.venv/bin/python -c 'import dassl' 2>/dev/null || install ./engine
