"""The machines we know: what a device on them is set up with."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec

__all__ = ["BOARDS", "Board", "board_here"]

_MODEL = Path("/proc/device-tree/model")


class Board(msgspec.Struct, frozen=True):
    """One kind of machine.

    Attributes:
        name: In ``--board``.
        title: For people.
        models: How ``/proc/device-tree/model`` begins on it.
        threads: Threads inside one inference that leave the machine room for the rest.
        quota_mb: Space for rows that wait for the cloud, MiB: small where cards wear out.
        ballast_mb: Space held back for a full disk, MiB.
        backend: Model runtime to prefer; None leaves it to the bundle.
        accelerator: Execution provider or delegate it is bought for.
        i2c_bus: Number of the bus on its pin header; None where there is none.
        note: What to know about it; empty if nothing.
    """

    name: str
    title: str
    models: tuple[str, ...] = ()
    threads: int = 1
    quota_mb: int = 256
    ballast_mb: int = 1
    backend: str | None = None
    accelerator: str | None = None
    i2c_bus: int | None = None
    note: str = ""


BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            "raspberry-pi-zero-2w",
            "Raspberry Pi Zero 2 W, 64-bit",
            ("Raspberry Pi Zero 2",),
            quota_mb=64,
            i2c_bus=1,
            note="512 MiB of memory: one stream, one runtime.",
        ),
        Board(
            "raspberry-pi-3",
            "Raspberry Pi 3, 64-bit",
            ("Raspberry Pi 3",),
            quota_mb=128,
            i2c_bus=1,
        ),
        Board(
            "raspberry-pi-4",
            "Raspberry Pi 4, 64-bit",
            ("Raspberry Pi 4", "Raspberry Pi 400", "Raspberry Pi Compute Module 4"),
            threads=2,
            i2c_bus=1,
        ),
        Board(
            "raspberry-pi-5",
            "Raspberry Pi 5, 64-bit",
            ("Raspberry Pi 5", "Raspberry Pi 500", "Raspberry Pi Compute Module 5"),
            threads=2,
            i2c_bus=1,
        ),
        Board(
            "raspberry-pi-32bit",
            "Raspberry Pi with a 32-bit system, best effort",
            quota_mb=64,
            backend="tflite-runtime",
            i2c_bus=1,
            note=(
                "Best effort: only tflite-runtime runs here, with Python 3.11 and the numpy of "
                'the system. A 64-bit system on the same board runs everything: install "arm64".'
            ),
        ),
        Board(
            "jetson-orin",
            "NVIDIA Jetson Orin",
            ("NVIDIA Jetson Orin", "NVIDIA Jetson AGX Orin", "NVIDIA Orin"),
            quota_mb=1024,
            ballast_mb=8,
            backend="onnx",
            accelerator="tensorrt",
            i2c_bus=7,
            note="Needs NVIDIA's build of onnxruntime-gpu for the installed JetPack.",
        ),
        Board(
            "coral-usb",
            "Any board with a Coral USB accelerator",
            backend="litert",
            accelerator="edgetpu",
            i2c_bus=1,
            note="Needs libedgetpu and a model compiled for the Edge TPU.",
        ),
        Board("gateway", "x86-64 gateway", threads=2, quota_mb=1024, ballast_mb=8),
        Board("desktop", "Desktop or laptop", threads=2, quota_mb=512),
    )
}


def board_here(model: Path = _MODEL) -> Board:
    """Return the board this process runs on; a desktop where nothing says otherwise.

    Args:
        model: File in which the kernel names the board.
    """
    try:
        told = model.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return BOARDS["desktop"]
    is_32bit = platform.architecture()[0] == "32bit"
    if is_32bit and told.startswith("Raspberry Pi"):
        return BOARDS["raspberry-pi-32bit"]
    # The longest name wins: "Raspberry Pi 4" and "Raspberry Pi 400" are both known.
    known = [
        (len(name), board)
        for board in BOARDS.values()
        for name in board.models
        if told.startswith(name)
    ]
    return max(known, key=lambda pair: pair[0])[1] if known else BOARDS["desktop"]
