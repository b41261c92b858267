"""Where sensors and actuators are attached, and whether this user may use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_runtime.doctor.finding import Finding

__all__ = ["look_at_buses"]


class _Bus(msgspec.Struct, frozen=True):
    """One way to attach something.

    Attributes:
        topic: For people.
        nodes: Patterns below the root.
        group: Whose members may open the nodes.
        absent: What makes the nodes appear.
    """

    topic: str
    nodes: tuple[str, ...]
    group: str
    absent: str


_BUSES = (
    _Bus(
        "i2c",
        ("dev/i2c-*",),
        "i2c",
        "On a Raspberry Pi: sudo raspi-config nonint do_i2c 0. Elsewhere load i2c-dev.",
    ),
    _Bus("iio", ("dev/iio:device*",), "iio", "Its kernel driver makes it: see dmesg."),
    _Bus(
        "serial",
        ("dev/ttyUSB*", "dev/ttyACM*", "dev/ttyAMA*", "dev/serial0"),
        "dialout",
        "Plug the adapter in. The pins of a Raspberry Pi: raspi-config nonint do_serial_hw 0.",
    ),
    _Bus("gpio", ("dev/gpiochip*",), "gpio", "This machine has no pins the kernel knows of."),
    _Bus("microphone", ("dev/snd/pcmC*c",), "audio", "Plug it in; arecord -l lists it."),
    _Bus("camera", ("dev/video*",), "video", "Plug it in; a ribbon camera needs libcamera."),
)


def look_at_buses(root: Path = Path("/")) -> Iterator[Finding]:
    """Say which nodes are there, and which this user may not open."""
    for bus in _BUSES:
        found = sorted(node for pattern in bus.nodes for node in root.glob(pattern))
        shut = [node for node in found if not os.access(node, os.R_OK | os.W_OK)]
        if not found:
            yield Finding(bus.topic, "unknown", "none", bus.absent)
        elif shut:
            yield Finding(
                bus.topic,
                "problem",
                f"no permission for {', '.join(f'/{node.relative_to(root)}' for node in shut)}",
                f"sudo usermod -aG {bus.group} $USER, then log in again. "
                "A service is in that group already.",
            )
        else:
            names = ", ".join(f"/{node.relative_to(root)}" for node in found[:8])
            yield Finding(bus.topic, "ok", names)
