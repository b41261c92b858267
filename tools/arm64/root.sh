#!/bin/sh
# Make an arm64 root filesystem from Debian packages, with our built wheel and its
# dependencies in it: sh tools/arm64/root.sh FOLDER
#
# Nothing is emulated here: packages and wheels are only unpacked. Needs mmdebstrap and,
# to run what it makes, qemu-user-static; see enter.sh. About 310 MB and one minute.
set -eu

[ $# = 1 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/root

say() { printf '%s\n' "$*" >&2; }
need() { command -v "$1" >/dev/null 2>&1 || { say "$1 is missing: apt install $2"; exit 2; }; }
need mmdebstrap mmdebstrap
need qemu-aarch64-static qemu-user-static

if [ ! -e "$folder/.system" ]; then
    say "Unpacking Debian 12 for arm64 ..."
    rm -rf "$root"
    # No package of ours pulls libstdc++6 in, and numpy needs it.
    mmdebstrap --quiet --architectures=arm64 --variant=extract \
        --include=python3.11,libstdc++6,ca-certificates bookworm "$root"
    mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/check"
    touch "$folder/.system"
fi

# qemu shows the host's processor, and the runtimes' CPU detection dies of it.
for core in 0 1 2 3; do
    printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n' "$core"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n'
    printf 'CPU part\t: 0xd08\nCPU revision\t: 3\n\n'
done > "$folder/cpuinfo"
printf 'Model\t\t: Raspberry Pi 4 Model B Rev 1.4\n' >> "$folder/cpuinfo"

say "Building our wheel and unpacking it with aarch64 wheels ..."
[ -x "$folder/tools/bin/pip" ] || python3 -m venv "$folder/tools"
pip() { "$folder/tools/bin/pip" --disable-pip-version-check --quiet "$@"; }
rm -rf "$folder/wheel" "$root/opt/site"
pip wheel --no-deps --wheel-dir "$folder/wheel" "$here"
wheel=$(echo "$folder"/wheel/edge_runtime-*.whl)
platforms=$(for tag in 2_17 2_27 2_28 2_34 2_35 2_36; do
    printf -- '--platform manylinux_%s_aarch64 ' "$tag"
done)
# shellcheck disable=SC2086 # several words are meant
pip install $platforms --platform manylinux2014_aarch64 --python-version 3.11 \
    --implementation cp --only-binary :all: --target "$root/opt/site" \
    "$wheel[tflite,onnx,secure,audio,i2c,serial,camera]" pytest hypothesis scipy
say "Ready: sh tools/arm64/enter.sh $1 python3.11 -m edge_runtime.cli doctor"
