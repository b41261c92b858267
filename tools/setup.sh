#!/bin/sh
# Make .venv with one set of extras: sh tools/setup.sh demo|dev
# Uses uv when it is there (seconds), else venv and pip (a minute or two). Needs no root.
set -eu

extra=$1
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    say "$python is $("$python" --version 2>&1 || echo missing); expected Python 3.11 or newer."
    say "  Install it, or name one: make PYTHON=/path/to/python3.11 $extra"
    exit 2
}

if command -v uv >/dev/null 2>&1; then
    [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
    say "Setting up .venv with uv (extras: $extra) ..."
    VIRTUAL_ENV="$PWD/.venv" uv pip install --quiet --editable ".[$extra]"
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null || {
        say "$python has no venv module, which Debian and Raspberry Pi OS package apart."
        say "  sudo apt install python3-venv      (or install uv, which needs neither)"
        exit 2
    }
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # An environment that uv made comes without pip.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
    say "Setting up .venv with pip (extras: $extra); one or two minutes the first time ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
fi
touch ".venv/.$extra"
