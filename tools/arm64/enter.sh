#!/bin/sh
# Run a command in the root filesystem that root.sh has made, emulated:
#   sh tools/arm64/enter.sh FOLDER COMMAND ...
#
# The checkout lies at /src there, read only. EDGE_ARM64_ROOT=card takes the card of card.sh.
# qemu is registered in a namespace of its own and is gone with the command; nothing of the
# host is changed, and no root is needed (Linux 6.7 and newer). How long something takes here
# says nothing about a Raspberry Pi.
set -eu

[ $# -ge 2 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
if [ -z "${EDGE_ARM64_INSIDE:-}" ]; then
    EDGE_ARM64_INSIDE=1 exec unshare --user --map-root-user --mount sh "$0" "$@"
fi

here=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(cd "$1" && pwd)
root=$folder/${EDGE_ARM64_ROOT:-root}
shift

mkdir -p "$folder/binfmt" "$root/src"
mount -t binfmt_misc none "$folder/binfmt"
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
emulator=$(command -v qemu-aarch64-static)
printf '%s' ":qemu-aarch64:M::$magic:$mask:$emulator:F" > "$folder/binfmt/register"

mount --rbind /proc "$root/proc"
mount --bind "$folder/cpuinfo" "$root/proc/cpuinfo"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs none "$root/tmp"
mount --bind "$here" "$root/src"
mount -o remount,bind,ro "$root/src"
cd /
# Not qemu's own "max": with its int8 matrix instructions LiteRT answers wrong (qemu 7.2).
exec env -i QEMU_CPU=cortex-a72 PYTHONPATH=/opt/site PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=1 HOME=/tmp TMPDIR=/tmp LANG=C.UTF-8 \
    PATH=/opt/site/bin:/usr/sbin:/usr/bin:/sbin:/bin "$(command -v chroot || echo /usr/sbin/chroot)" "$root" "$@"
