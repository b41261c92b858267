"""A whole arm64 machine on qemu: kernel, root file system in memory, ext4 disk, network.

    python tools/arm64/vm.py FOLDER

makes, beside the root file system of root.sh, `kernel` and `initrd`. `Machine` boots them,
or the card of card.sh.
Needs mmdebstrap, qemu-system-arm, cpio and e2fsprogs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from init import MODULES

__all__ = ["Machine", "make", "make_disk"]

_HERE = Path(__file__).resolve().parent


def make(folder: Path) -> None:
    """Unpack a kernel, and pack the root file system with its modules and our init."""
    root, unpacked = folder / "root", folder / "kernel-package"
    if not (folder / "kernel").exists():
        shutil.rmtree(unpacked, ignore_errors=True)
        _run(
            *("mmdebstrap", "--quiet", "--architectures=arm64", "--variant=extract"),
            *("--include=linux-image-arm64", "bookworm", str(unpacked)),
        )
        (image,) = (unpacked / "boot").glob("vmlinuz-*")
        shutil.copy(image, folder / "kernel")
        (release,) = (unpacked / "lib/modules").iterdir()
        for name in MODULES:
            _copy(release / "kernel" / f"{name}.ko", root / "usr/lib/modules" / release.name)
        shutil.rmtree(unpacked)
    shutil.copy(_HERE / "init.py", root / "init")
    (root / "init").chmod(0o755)
    names = "\n".join(
        name for name in _listed(root) if not name.startswith(("src/", "./src/", "proc/", "sys/"))
    )
    with (folder / "initrd").open("wb") as packed:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            cwd=root,
            input=names.encode(),
            stdout=packed,
            check=True,
        )


def make_disk(path: Path, files: Path, *, size_mb: int = 128) -> None:
    """Make an ext4 image that holds ``files``."""
    with path.open("wb") as image:
        image.truncate(size_mb * 2**20)
    program = shutil.which("mkfs.ext4") or "/usr/sbin/mkfs.ext4"
    _run(program, "-q", "-F", "-d", str(files), str(path))


class Machine:
    """One machine, switched on; `cut` is a power cut.

    Args:
        folder: What `make` made, or card.sh for a board.
        disk: Its ext4 disk, or the board's card.
        log: Where its console goes.
        is_board: Whether it boots the card, with systemd. Its console can then be typed
            at and a serial sensor be plugged into its USB port: both are sockets.
    """

    def __init__(self, folder: Path, disk: Path, log: Path, *, is_board: bool = False) -> None:
        self.log = log
        self.console = log.with_suffix(".console")
        self.usb = log.with_suffix(".usb")
        boots = self._board(folder) if is_board else self._device(folder)
        command = [
            *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-m", "2048", "-smp", "2"),
            *("-display", "none", "-no-reboot", *boots),
            *("-drive", f"file={disk},format=raw,if=none,id=disk"),
            *("-device", "virtio-blk-device,drive=disk"),
            *("-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"),
        ]
        with log.open("ab") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )

    def _device(self, folder: Path) -> list[str]:
        """Boot the device and nothing else; its console is the log."""
        return [
            *("-kernel", str(folder / "kernel"), "-initrd", str(folder / "initrd")),
            *("-append", "console=ttyAMA0 quiet panic=-1", "-serial", "stdio"),
        ]

    def _board(self, folder: Path) -> list[str]:
        """Boot the card; an FTDI adapter sits in the USB port."""
        console = f"socket,id=tty,path={self.console},server=on,wait=off,logfile={self.log}"
        return [
            *("-kernel", str(folder / "card-kernel"), "-initrd", str(folder / "card-initrd")),
            *("-append", "console=ttyAMA0 quiet loglevel=3 panic=-1 rw"),
            *("-chardev", console, "-serial", "chardev:tty", "-device", "qemu-xhci"),
            *("-chardev", f"socket,id=usb,path={self.usb},server=on,wait=off"),
            *("-device", "usb-serial,chardev=usb,always-plugged=on"),
        ]

    @property
    def is_on(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def cut(self) -> None:
        """Take the power away: what the guest has not written to its disk is gone."""
        self._process.kill()
        self._process.wait()


def _listed(root: Path) -> list[str]:
    found = subprocess.run(
        ["find", ".", "-xdev", "-mindepth", "1"], cwd=root, capture_output=True, check=True
    )
    return [line.removeprefix("./") for line in found.stdout.decode().splitlines()]


def _copy(module: Path, release: Path) -> None:
    """Copy a kernel module to where `init` looks for it; those that are built in have no file."""
    if module.exists():
        place = release / Path(*module.parts[module.parts.index("kernel") :])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, place)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
