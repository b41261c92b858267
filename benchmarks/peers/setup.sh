#!/bin/sh
# Make the virtual environments of the peers: sh benchmarks/peers/setup.sh [NAME...]
# One that cannot be made is left out; its rows then say so.
set -u

cd "$(dirname "$0")"
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

make_one() {
    name=$1
    requirements=requirements-$name.txt
    stamp=.venvs/$name/.made
    if [ -f "$stamp" ] && [ ! "$requirements" -nt "$stamp" ]; then return 0; fi
    say "Setting up the peer $name ..."
    rm -rf ".venvs/$name"
    "$python" -m venv ".venvs/$name" || return 1
    ".venvs/$name/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" || return 1
    if [ "$name" = silero-vad ]; then
        ".venvs/$name/bin/pip" install --quiet --disable-pip-version-check --no-deps silero-vad==6.2.3 || return 1
    fi
    touch "$stamp"
}

[ $# -gt 0 ] || set -- pymicro-wakeword silero-vad mlserver servers
for name in "$@"; do
    make_one "$name" || say "The peer $name cannot be set up here; its rows will say so."
done
exit 0
