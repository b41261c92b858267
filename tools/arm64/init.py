#!/usr/bin/python3.11
"""Process 1 of the emulated machine: mounts, network, then the device, then power off.

The root file system lies in memory and is fresh at every boot; what has to last lies on
the disk, an ext4 file system at /data with a device.yaml in it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

_FINIT_MODULE = 273  # on arm64
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFFLAGS = 0x8916, 0x891C, 0x8914
_UP = 0x41
_POWER_OFF = 0x4321FEDC
MODULES = (
    "drivers/virtio/virtio_mmio",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/block/virtio_blk",
    "lib/crc16",
    "fs/mbcache",
    "crypto/crc32c_generic",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
)
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Bring the machine up, run the device, and switch it off."""
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        _mount(kind, place, kind)
    for name in MODULES:
        _load(name)
    _address("lo", "127.0.0.1")
    _address(_network_card(), "10.0.2.15")
    Path("/data").mkdir(exist_ok=True)
    _mount("/dev/vda", "/data", "ext4")
    print("the machine is up", flush=True)
    environment = {
        "PYTHONPATH": "/opt/site",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/data",
        "LANG": "C.UTF-8",
    }
    command = [sys.executable, "-m", "edge_runtime.cli", "run", "--stay", "/data/device.yaml"]
    done = subprocess.run(command, env=environment, check=False)
    print(f"the device ended with code {done.returncode}", flush=True)
    os.sync()
    _libc.reboot(_POWER_OFF)


def _mount(source: str, place: str, kind: str) -> None:
    if _libc.mount(source.encode(), place.encode(), kind.encode(), 0, b""):
        print(f"cannot mount {place}: {os.strerror(ctypes.get_errno())}", flush=True)


def _load(name: str) -> None:
    """Load a module of the kernel that runs; those that are built in have no file."""
    folder = Path("/usr/lib/modules") / os.uname().release / "kernel"
    path = folder / f"{name}.ko"
    if not path.exists():
        return
    with path.open("rb") as file:
        if _libc.syscall(_FINIT_MODULE, file.fileno(), b"", 0):
            print(f"cannot load {name}: {os.strerror(ctypes.get_errno())}", flush=True)


def _network_card() -> str:
    """Return the name of the first card, once its driver has found it."""
    for _ in range(100):
        found = sorted({entry.name for entry in Path("/sys/class/net").iterdir()} - {"lo"})
        if found:
            return found[0]
        time.sleep(0.1)
    raise OSError("there is no network card")


def _address(interface: str, address: str) -> None:
    name = interface.encode().ljust(16, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
            fields = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(handle, request, name + fields)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, name + struct.pack("H14x", _UP))


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        # Process 1 may not end: the kernel would panic.
        print(f"init failed: {error!r}", flush=True)
        _libc.reboot(_POWER_OFF)
