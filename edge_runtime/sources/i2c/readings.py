"""What the readings of both parts share: units and event times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from edge_runtime.errors import ConfigError
from edge_runtime.ports import Clock
from edge_runtime.registry import closest
from edge_runtime.sources.live import Health, SampleClock, Stamps
from edge_runtime.spec import ChannelSpec, StreamSpec

__all__ = ["CELSIUS", "Channels", "Timeline", "Unit", "units_of"]


class Unit(NamedTuple):
    """A unit: value = factor · value in the part's own unit + offset."""

    factor: float
    offset: float = 0.0


Channels = Mapping[str, Mapping[str, Unit]]
"""Channels of a part by name, each with its units; the first one is the default."""

CELSIUS: Mapping[str, Unit] = {"°C": Unit(1.0), "K": Unit(1.0, 273.15)}


def units_of(need: StreamSpec, known: Channels, where: str) -> list[Unit]:
    """Return the unit of each needed channel, in order.

    Raises:
        ConfigError: The part has no such channel, or not in that unit.
    """
    return [_unit_of(channel, known, where) for channel in need.channels]


def _unit_of(channel: ChannelSpec, known: Channels, where: str) -> Unit:
    if channel.name not in known:
        raise ConfigError(
            f"there is no channel {channel.name!r}",
            where=where,
            expected=f"one of {', '.join(known)}",
            remedy=f"{closest(channel.name, tuple(known))} Correct it in the model's stream.",
        )
    units = known[channel.name]
    unit = channel.unit or next(iter(units))
    if unit not in units:
        raise ConfigError(
            f"channel {channel.name!r} does not come in {unit!r}",
            where=where,
            expected=f"one of {', '.join(units)}",
            remedy="Correct the unit in the model's stream, or convert the model for another.",
        )
    return units[unit]


class Timeline:
    """Event times that go on across overflows and failures; what is missing is counted.

    Args:
        clock: Tells time.
        health: Told about delays and lost samples.
    """

    def __init__(self, clock: Clock, health: Health) -> None:
        self._clock = clock
        self._health = health
        self._rate_hz = 0.0
        self._samples: SampleClock | None = None
        self._known_ns: int | None = None
        self._lost = 0
        self._has_failed = False

    def begin(self, rate_hz: float) -> None:
        """Start anew; after a failure go on, as if the source had been open all the time."""
        if not self._has_failed or rate_hz != self._rate_hz:
            self._samples = SampleClock(rate_hz, self._clock, self._health)
            self._rate_hz, self._known_ns, self._lost = rate_hz, None, 0
        self._has_failed = False

    def fail(self) -> None:
        """Note that the source failed: what is due until it is open again is lost."""
        self._has_failed = True

    def lose_until(self, time_ns: int) -> None:
        """Count what was due since the last sample, up to a monotonic time, as lost.

        The first time after `begin` nothing was due: samples are due from then on.
        """
        if self._known_ns is not None:
            self._lost += max(0, round((time_ns - self._known_ns) / 1e9 * self._rate_hz))
        self._known_ns = time_ns

    def stamp(self, count: int, taken_ns: int, *, lost: int = 0) -> Stamps:
        """Return the times of samples of which the last was taken at a monotonic time.

        Args:
            count: Samples, at least 1.
            taken_ns: When the last one was taken.
            lost: Samples right before that are missing.
        """
        assert self._samples is not None  # noqa: S101 - begun before
        lost, self._lost, self._known_ns = lost + self._lost, 0, taken_ns
        return self._samples.stamp(count, lost=lost, taken_ns=taken_ns)

    def since_last_s(self, now_ns: int) -> float:
        """Return the time since the last sample, or since samples are due."""
        return (now_ns - (self._known_ns or 0)) / 1e9
