#!/bin/sh
# Make the SD card of a board as it comes: Debian for arm64 with systemd, Python and the
# user "pi", and nothing of ours but wheels in a folder: sh tools/arm64/card.sh FOLDER
#
# Leaves card.img, card-kernel and card-initrd in FOLDER; vm.py boots them. Packages are
# only unpacked; what their scripts would have set up, as far as it is needed, is written
# here. Needs mmdebstrap, kmod, cpio, e2fsprogs and qemu-user-static. About 1.3 GB and two
# minutes; run root.sh first, its wheel is taken.
set -eu

[ $# = 1 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/card
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
need() { command -v "$1" >/dev/null 2>&1 || { say "$1 is missing: apt install $2"; exit 2; }; }
need mmdebstrap mmdebstrap
need modprobe kmod
need cpio cpio
need mkfs.ext4 e2fsprogs

if [ -z "${EDGE_ARM64_INSIDE:-}" ]; then
    if [ ! -e "$folder/card.tar" ]; then
        say "Fetching Debian 12 with systemd for arm64 ..."
        mmdebstrap --quiet --architectures=arm64 --variant=extract --format=tar \
            --include='?essential' --include='?priority(required)' --include="$(
            printf '%s,' systemd systemd-sysv udev sudo login passwd util-linux procps kmod dbus
            printf '%s,' python3 python3-venv libstdc++6 ca-certificates busybox-static
            printf linux-image-arm64
        )" bookworm "$folder/card.part"
        mv "$folder/card.part" "$folder/card.tar"
    fi
    say "Collecting our wheel and those it needs ..."
    wheel=$(echo "$folder"/wheel/edge_runtime-*.whl)
    [ -e "$wheel" ] || { say "there is no wheel: sh tools/arm64/root.sh $1"; exit 2; }
    platforms=$(for tag in 2_17 2_27 2_28 2_34 2_35 2_36; do
        printf -- '--platform manylinux_%s_aarch64 ' "$tag"
    done)
    rm -f "$folder"/wheels/edge_runtime-*.whl
    # shellcheck disable=SC2086 # several words are meant
    "$folder/tools/bin/pip" --disable-pip-version-check --quiet download $platforms \
        --platform manylinux2014_aarch64 --python-version 3.11 --implementation cp \
        --only-binary :all: --dest "$folder/wheels" "$wheel[tflite,serial]"
    # Everything on the card is root's, also where an ordinary user makes it.
    EDGE_ARM64_INSIDE=1 exec unshare --user --map-root-user --mount sh "$0" "$folder"
fi

say "Unpacking ..."
rm -rf "$root"
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib"
ln -s usr/bin usr/sbin usr/lib "$root"
tar -C "$root" --no-same-owner --keep-directory-symlink --exclude './dev/*' -xf "$folder/card.tar"

release=$(basename "$root"/usr/lib/modules/*)
cp "$root/boot/vmlinuz-$release" "$folder/card-kernel"
depmod -b "$root" "$release"
# The files of modules and of what they need, in the order of loading.
files_of() {
    for name in "$@"; do modprobe -d "$root" -S "$release" --show-depends "$name"; done |
        awk '$1 == "insmod" && !seen[$2]++ {print $2}'
}
early=$(files_of virtio_mmio virtio_blk crc32c_generic ext4)
late=$(files_of virtio_net virtio_pci xhci_pci ftdi_sio)

say "Packing the first file system, which mounts the card ..."
first=$folder/card-first
rm -rf "$first"
mkdir -p "$first/modules" "$first/card" "$first/dev"
cp "$root/bin/busybox" "$first/busybox"
for module in $early; do
    cp "$module" "$first/modules"
    basename "$module" >> "$first/modules/order"
done
cp "$here/tools/arm64/card/init" "$first/init"
chmod 755 "$first/init"
(cd "$first" && find . | cpio --quiet -o -H newc) > "$folder/card-initrd"

say "Setting it up ..."
kept=$folder/card-modules
rm -rf "$kept"
for module in $early $late; do
    place=$kept/${module#*"$release"/}
    mkdir -p "$(dirname "$place")"
    cp "$module" "$place"
done
rm -rf "$root/usr/lib/modules/$release/kernel" "$root"/boot/* "$root/usr/share/doc" \
    "$root/usr/share/locale" "$root/usr/share/man"
mv "$kept/kernel" "$root/usr/lib/modules/$release/kernel"
depmod -b "$root" "$release"

mkdir -p "$root/root" "$root/home" "$root/opt" "$root/mnt" "$root/proc" "$root/sys" "$root/run"
for name in passwd group; do
    cp "$root/usr/share/base-passwd/$name.master" "$root/etc/$name"
done
cp "$root/usr/share/libc-bin/nsswitch.conf" "$root/etc/nsswitch.conf"
for name in account auth password session session-noninteractive; do
    printf '%s required pam_unix.so\n' "${name%-*}" > "$root/etc/pam.d/common-$name"
done
printf 'pi:x:1000:1000::/home/pi:/bin/bash\n' >> "$root/etc/passwd"
printf 'pi:x:1000:\n' >> "$root/etc/group"
# The groups that Raspberry Pi OS gives its first user.
sed -i -E 's/^(adm|dialout|sudo|audio|video|plugdev|users):.*/&pi/' "$root/etc/group"
awk -F: '{print $1":*:19000:0:99999:7:::"}' "$root/etc/passwd" > "$root/etc/shadow"
chmod 640 "$root/etc/shadow"
cp -r "$here/tools/arm64/card/etc" "$root"
chmod 440 "$root/etc/sudoers.d/010_pi-nopasswd"
# It asks for a time zone on the console, which Raspberry Pi OS does not.
ln -s /dev/null "$root/etc/systemd/system/systemd-firstboot.service"
mkdir -p "$root/var/log/journal"
cp -r "$folder/wheels" "$root/opt/wheels"

say "Compiling Python's library, emulated ..."
EDGE_ARM64_INSIDE='' EDGE_ARM64_ROOT=card sh "$here/tools/arm64/enter.sh" "$folder" \
    env PYTHONDONTWRITEBYTECODE= python3 -m compileall -q /usr/lib/python3 /usr/lib/python3.11
rmdir "$root/src"

say "Writing the card ..."
rm -f "$folder/card.img"
truncate -s 2G "$folder/card.img"
mkfs.ext4 -q -F -d "$root" "$folder/card.img"
