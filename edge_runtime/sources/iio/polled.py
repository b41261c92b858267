"""Readings asked for one by one: for slow parts, and for those without a buffer."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.iio.config import IioConfig
from edge_runtime.sources.iio.find import elements_of, number_of
from edge_runtime.sources.iio.kernel import Attributes, Kernel, gone
from edge_runtime.sources.iio.layout import parse_type
from edge_runtime.sources.intake import Block
from edge_runtime.sources.live import Health, Polling, WallTime
from edge_runtime.sources.suspects import Frozen, note_suspects
from edge_runtime.spec import StreamSpec

__all__ = ["Polled", "start_polling"]

_GONE = (errno.ENODEV, errno.ENOENT, errno.ENXIO)
# So many readings without a single number in a row, and the part is taken for gone.
_MOST_FAILURES = 10


class _Reading(NamedTuple):
    """One attribute to read: value = (number + offset) · scale.

    Attributes:
        name: Name of the attribute.
        scale: See above.
        offset: See above.
        rails: Numbers at the end of the range, where the driver tells them.
    """

    name: str
    scale: float
    offset: float
    rails: tuple[int, ...] = ()

    def value(self, number: float) -> float:
        """Return what a number stands for."""
        return (number + self.offset) * self.scale


class Polled:
    """Reads one attribute for each channel, on an even grid.

    Args:
        kernel: Answers.
        attributes: Restored at close.
        readings: One for each channel, in the model's order.
        rate_hz: Readings a second.
        frozen: Finds readings that stand still.
        clock: Tells time.
        health: Told about missed, failed and suspect readings.
    """

    def __init__(
        self,
        kernel: Kernel,
        attributes: Attributes,
        readings: Sequence[_Reading],
        *,
        rate_hz: float,
        frozen: Frozen,
        clock: Clock,
        health: Health,
    ) -> None:
        self._kernel = kernel
        self._attributes = attributes
        self._readings = tuple(readings)
        self._frozen = frozen
        self._clock = clock
        self._health = health
        self._closed = threading.Event()
        self._polling = Polling(rate_hz, clock, self._closed)
        self._wall = WallTime(clock, health)
        self._last_ns = 0
        self._failures = 0

    def read(self, timeout_s: float) -> Block | None:
        """Return one reading of all channels when it is due; NaN where one failed.

        Raises:
            SourceError: The device is gone, or has failed many times in a row.
        """
        missed = self._polling.wait(timeout_s)
        if missed is None:
            return None
        self._health.lost(missed)
        began_ns = self._clock.monotonic_ns()
        numbers = [self._number(reading) for reading in self._readings]
        pairs = list(zip(self._readings, numbers, strict=True))
        values = np.array([[one.value(number) for one, number in pairs]], np.float32)
        self._judge(values)
        quality = note_suspects(
            self._health,
            1,
            saturated=np.array([any(number in one.rails for one, number in pairs)]),
            frozen=self._frozen.find(values),
            lost=missed,
        )
        return Block(self._time(began_ns), values, self._wall.quality, None, quality)

    def _number(self, reading: _Reading) -> float:
        try:
            return float(self._kernel.read(self._attributes.path(reading.name)))
        except OSError as error:
            if error.errno in _GONE:
                raise gone(self._attributes.device, error) from error
            # A disturbed bus, or a part that is busy: the next reading may work.
            self._health.fault("read_failed")
            return float("nan")
        except ValueError:
            self._health.fault("unparsable")
            return float("nan")

    def _judge(self, values: np.ndarray) -> None:
        self._failures = self._failures + 1 if np.isnan(values).all() else 0
        if self._failures >= _MOST_FAILURES:
            raise SourceError(
                f"{self._failures} readings failed in a row",
                where=self._attributes.device,
                expected="a part that answers",
                remedy="Check its wiring and power, and what the kernel says: dmesg.",
            )

    def _time(self, began_ns: int) -> np.ndarray:
        """Return the middle of the reading; never the same time twice."""
        now_ns = self._clock.monotonic_ns()
        time_ns = self._wall.offset_ns(now_ns) + (began_ns + now_ns) // 2
        self._last_ns = max(time_ns, self._last_ns + 1)
        return np.array([self._last_ns], np.int64)

    def wake(self) -> None:
        """Make a waiting `read` return; callable from any thread."""
        self._closed.set()

    def close(self) -> None:
        """Restore what was changed."""
        self._attributes.restore()


def start_polling(
    kernel: Kernel,
    attributes: Attributes,
    config: IioConfig,
    need: StreamSpec,
    *,
    clock: Clock,
    health: Health,
) -> Polled:
    """Set attributes up and get ready to ask.

    Raises:
        ConfigError: Elements or attributes do not fit the device.
        SourceError: It is gone, or nobody may use it.
    """
    try:
        for name, value in config.settings.items():
            attributes.set(name, value)
        readings = _readings(attributes, config, need)
    except BaseException:
        attributes.restore()
        raise
    return Polled(
        kernel,
        attributes,
        readings,
        rate_hz=need.rate_hz,
        frozen=Frozen(config.frozen_s, need.rate_hz),
        clock=clock,
        health=health,
    )


def _readings(attributes: Attributes, config: IioConfig, need: StreamSpec) -> list[_Reading]:
    known = _readable(attributes)
    chosen = elements_of(need.names, config.channels, list(known), attributes.device)
    repeated = [name for name, which in chosen if which]
    if repeated:
        raise ConfigError(
            f"channels asks for one number of {repeated[0]!r}",
            where=attributes.device,
            expected="elements with one number",
            remedy="Use capture: buffer for repeated elements.",
        )
    return [_reading(attributes, name, known[name]) for name, _ in chosen]


def _readable(attributes: Attributes) -> dict[str, str]:
    """Return the attribute of every element; raw where there is also a processed value."""
    names = attributes.names("")
    found = {}
    for ending in ("_input", "_raw"):
        for name in names:
            if name.startswith("in_") and name.endswith(ending):
                found[name[3 : -len(ending)]] = name
    return found


def _reading(attributes: Attributes, element: str, name: str) -> _Reading:
    # A processed value has its scale and offset in it already.
    if name.endswith("_input"):
        return _Reading(name, 1.0, 0.0)
    scale = number_of(attributes, element, "scale", 1.0)
    offset = number_of(attributes, element, "offset", 0.0)
    return _Reading(name, scale, offset, _rails(attributes, element))


def _rails(attributes: Attributes, element: str) -> tuple[int, ...]:
    """Return the ends of the converter's range; a driver with a buffer tells how wide it is."""
    for folder in ("buffer0", "scan_elements"):
        name = f"{folder}/in_{element}_type"
        if attributes.has(name):
            return parse_type(attributes.get(name), str(attributes.path(name))).rails
    return ()
