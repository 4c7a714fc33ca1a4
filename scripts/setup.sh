#!/usr/bin/env bash
# Make .venv, ready to run everything here. The heavy packages of requirements.lock are installed once, in the user's
# cache, and shared by all checkouts with the same lock file; .venv itself is small, belongs to this checkout, and
# gets engine/ only where `import dassl` fails. A .venv of your own is used as it is.
#   PYTHON  the interpreter to use (default python3; 3.9 or later)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stop() { echo "setup: $1" >&2; exit 1; }

if [ -d .venv ] && [ ! -e .venv/base ]; then
    .venv/bin/python -c 'import torch, torchvision, open_clip, yacs' 2>/dev/null ||
        stop ".venv is yours and lacks packages: run .venv/bin/pip install -r requirements.txt, or move it away"
else
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
        stop "$python is missing or older than 3.9; name another: PYTHON=/path/to/python make setup"
    key=$("$python" - <<'PY'
import hashlib, sys
print("py%d.%d-" % sys.version_info[:2] + hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest()[:12])
PY
)
    base=${XDG_CACHE_HOME:-$HOME/.cache}/align-clip/$key
    if [ ! -e "$base/complete" ]; then
        echo "setup: installing the packages of requirements.lock into $base (about 5 GB, some minutes)"
        mkdir -p "$(dirname "$base")"
        rm -rf "$base"
        "$python" -m venv "$base" || stop "$python cannot make virtual environments; on Debian: apt install python3-venv"
        "$base/bin/python" -m pip install --disable-pip-version-check --no-input --quiet -r requirements.lock ||
            stop "the installation failed (its messages are above); run make setup again to retry"
        touch "$base/complete"
    fi
    if [ "$(cat .venv/base 2>/dev/null || true)" != "$base" ]; then
        rm -rf .venv
        "$python" -m venv --without-pip .venv  # pip and setuptools are those of the shared packages
        site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        shared=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        echo "import site; site.addsitedir('$shared')" > "$site/shared-packages.pth"
        echo "$base" > .venv/base
    fi
fi

if ! .venv/bin/python -c 'import dassl' 2>/dev/null; then
    .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps --no-build-isolation -e engine ||
        stop "engine/ did not install (the messages are above)"
fi
