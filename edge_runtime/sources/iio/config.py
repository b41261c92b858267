"""Options of an IIO sensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.sources.iio.kernel import decimal
from edge_runtime.sources.suspects import Patience

__all__ = ["IioConfig"]

_ATTRIBUTE = re.compile(r"[A-Za-z0-9_-]+")


class IioConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of an IIO sensor.

    Attributes:
        device: Its ``name`` or ``label``, or its folder such as ``iio:device0``.
        channels: Which element holds a channel, as in the kernel's file names
            without ``in_``: ``accel_x``, or ``rot_quaternion:2`` for the third of a
            repeated one. None takes elements that are named like the channels.
        capture: ``buffer`` lets the kernel collect samples at the part's or the
            trigger's pace; ``poll`` asks for every single reading.
        trigger: Name of the trigger that paces the buffer; None leaves it as it is.
        attributes: Written before the capture and restored after it, by file name.
        timestamps: Whether the kernel's own stamps give the event times.
        block_s: Time that one block of samples covers.
        buffer_s: Time that the kernel's buffer holds while nobody reads.
        frozen_s: The same readings for so long are a fault; None never counts, for
            parts that may stand still.
        root: Folder of the devices.
        nodes: Folder of the character devices.
    """

    device: Annotated[str, Meta(min_length=1)]
    channels: dict[str, str] | None = None
    capture: Literal["buffer", "poll"] = "buffer"
    trigger: str | None = None
    attributes: dict[str, str | int | float] = {}
    timestamps: bool = True
    block_s: Annotated[float, Meta(ge=0.001, le=1)] = 0.05
    buffer_s: Annotated[float, Meta(ge=0.1, le=60)] = 2.0
    frozen_s: Patience = None
    root: Path = Path("/sys/bus/iio/devices")
    nodes: Path = Path("/dev")

    def __post_init__(self) -> None:
        for name in self.attributes:
            if not _ATTRIBUTE.fullmatch(name):
                raise ConfigError(
                    f"attributes names {name!r}",
                    expected="the name of a file in the device's folder",
                    remedy="List them: ls /sys/bus/iio/devices/iio:device0.",
                )
        if self.capture == "poll" and self.trigger is not None:
            raise ConfigError(
                f"trigger is {self.trigger!r} and capture is poll",
                expected="a trigger with capture: buffer alone",
                remedy="Leave trigger out; polled readings come at the model's rate.",
            )

    @property
    def settings(self) -> dict[str, str]:
        """``attributes`` as the kernel reads them."""
        return {
            name: value if isinstance(value, str) else decimal(value)
            for name, value in self.attributes.items()
        }

    @property
    def declared_channels(self) -> tuple[str, ...] | None:
        """Channels as declared; None if the device's own elements decide."""
        return tuple(self.channels) if self.channels is not None else None
