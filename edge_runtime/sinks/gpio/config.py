"""Options of the GPIO sink, checked when they are read."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError

__all__ = ["GpioConfig", "PinConfig"]

NotEmpty = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class PinConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one pin does.

    Attributes:
        pin: Number of Broadcom, or a name that gpiozero knows such as ``BOARD11``.
        label: While this label lasts, the pin is on.
        stream: Only decisions of this stream count; None takes all.
        active_high: Whether a high level means on.
        min_on_s: Shortest time that the pin stays on.
        pulse_s: The start of the label switches on for so long, and its end does
            nothing; None follows the label.
        safe: State without a device that works.
    """

    pin: Annotated[int, Meta(ge=0, le=1023)] | NotEmpty
    label: NotEmpty
    stream: NotEmpty | None = None
    active_high: bool = True
    min_on_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    pulse_s: Seconds | None = None
    safe: Literal["off", "on"] = "off"

    def __post_init__(self) -> None:
        if self.pulse_s is not None and self.min_on_s:
            raise ConfigError(
                f"pin {self.pin} has pulse_s {self.pulse_s:g} and min_on_s {self.min_on_s:g}",
                expected="one of them",
                remedy="A pulse lasts pulse_s; leave min_on_s out.",
            )


class GpioConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the GPIO sink.

    Attributes:
        pins: What each pin does.
        safe_after_s: Without any result for so long, pins go to their safe state; more
            than the time between two results.
        factory: How gpiozero reaches the pins.
    """

    pins: Annotated[tuple[PinConfig, ...], Meta(min_length=1, max_length=64)]
    safe_after_s: Seconds = 60.0
    factory: NotEmpty = "lgpio"

    def __post_init__(self) -> None:
        names = [pin.pin for pin in self.pins]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"pin {', '.join(twice)} stands twice",
                expected="each pin once",
                remedy="One label can switch several pins, but a pin follows one label.",
            )
