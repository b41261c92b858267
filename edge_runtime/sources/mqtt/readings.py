"""From a message to readings: a row of numbers each, with the time it was measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from paho.mqtt.client import topic_matches_sub

from edge_runtime.sources.instants import parser_of
from edge_runtime.sources.live import Health
from edge_runtime.sources.mqtt.config import MqttConfig
from edge_runtime.sources.mqtt.inbox import Arrival
from edge_runtime.sources.mqtt.path import number_of, parse_path
from edge_runtime.spec import StreamSpec

__all__ = ["Decoder", "Readings"]

_MOST_BYTES = 256 * 1024
_MOST_READINGS = 4096
_KNOWN_TOPICS = 1024


class Readings(NamedTuple):
    """What one message tells.

    Attributes:
        channels: Which channels its topic feeds, positions in the stream.
        time_ns: When each reading was measured, shape (n,), int64: as it is written, or
            when the message came.
        offset_ns: Wall time less monotonic time when the message was read.
        values: Shape (n, len(channels)), float64; NaN where there is no number.
        key: Which device they are of; None where nothing says so.
    """

    channels: tuple[int, ...]
    time_ns: np.ndarray
    offset_ns: int
    values: np.ndarray
    key: str | None = None


class Decoder:
    """Finds the channels of a stream in payloads; what it cannot use, it counts.

    Args:
        config: Topics and paths.
        need: Channels, and the distance of readings that share one time.
        health: Told what could not be used.
        offset_ns: Returns wall time less monotonic time.
    """

    def __init__(
        self,
        config: MqttConfig,
        need: StreamSpec,
        health: Health,
        offset_ns: Callable[[], int],
    ) -> None:
        channels = [config.channels[name] for name in need.names]
        self._filters = [channel.topic for channel in channels]
        self._paths = [parse_path(channel.path) for channel in channels]
        self._readings = None if config.readings is None else parse_path(config.readings)
        self._time = None if config.time is None else parse_path(config.time.path)
        self._parse_time = parser_of(config.time.format if config.time else "iso")
        self._period_ns = 1e9 / need.rate_hz
        self._health = health
        self._offset_ns = offset_ns
        self._level = config.key if isinstance(config.key, int) else None
        self._key = parse_path(config.key) if isinstance(config.key, str) else None
        self._fed_by = functools.lru_cache(_KNOWN_TOPICS)(self._find_channels)

    def decode(self, arrival: Arrival) -> Readings | None:
        """Return what a message tells; None if that is nothing."""
        try:
            document = _document(arrival.payload)
        except (ValueError, RecursionError, msgspec.DecodeError):
            self._health.fault("unparsable")
            return None
        offset_ns = self._offset_ns()
        channels = self._fed_by(arrival.topic)
        parts = self._parts(document)
        times_ns = self._times_ns(document, parts, arrival.time_ns + offset_ns)
        rows = [self._row(document, part, channels) for part in parts]
        # A reading without a time or without any number says nothing.
        told = [
            (time_ns, row)
            for time_ns, row in zip(times_ns, rows, strict=True)
            if time_ns is not None and not all(map(math.isnan, row))
        ]
        if not told:
            return None
        times, values = zip(*told, strict=True)
        key = self._key_of(arrival.topic, document)
        return Readings(channels, np.array(times, np.int64), offset_ns, np.array(values), key)

    def _key_of(self, topic: str, document: object) -> str | None:
        if self._level is not None:
            levels = topic.split("/")
            return levels[self._level] or None if self._level < len(levels) else None
        found = None if self._key is None else self._key.find(document)
        is_name = isinstance(found, str | int) and not isinstance(found, bool)
        return str(found) or None if is_name else None

    def _find_channels(self, topic: str) -> tuple[int, ...]:
        return tuple(
            i for i, wanted in enumerate(self._filters) if topic_matches_sub(wanted, topic)
        )

    def _parts(self, document: object) -> list[object]:
        """Return the readings of a message."""
        if self._readings is None:
            return [document]
        found = self._readings.find(document)
        if not isinstance(found, list):
            self._health.fault("no_readings")
            return []
        if len(found) > _MOST_READINGS:
            self._health.fault("too_many_readings", len(found) - _MOST_READINGS)
        return found[-_MOST_READINGS:]

    def _row(self, document: object, part: object, channels: Sequence[int]) -> list[float]:
        paths = [self._paths[channel] for channel in channels]
        return [self._value(path.find(document if path.is_absolute else part)) for path in paths]

    def _value(self, found: object) -> float:
        number = number_of(found)
        if number is None:
            self._health.fault("missing_channel" if found is None else "not_a_number")
            return math.nan
        return number

    def _times_ns(
        self, document: object, parts: Sequence[object], arrived_ns: int
    ) -> Sequence[int | None]:
        """Return when each reading was measured; None where that cannot be read.

        Readings that share one time lie a period apart; the last one has that time.
        """
        path = self._time
        if path is not None and not path.is_absolute:
            return [self._time_ns(path.find(part)) for part in parts]
        last_ns = arrived_ns if path is None else self._time_ns(path.find(document))
        if last_ns is None:
            return [None] * len(parts)
        return [last_ns - round(n * self._period_ns) for n in range(len(parts))][::-1]

    def _time_ns(self, written: object) -> int | None:
        try:
            if isinstance(written, bool) or not isinstance(written, str | int | float):
                raise ValueError(f"{written!r} is no time")
            return self._parse_time(str(written))
        except (ValueError, OverflowError):
            self._health.fault("no_time")
            return None


def _document(payload: bytes) -> object:
    """Return what a payload holds.

    Raises:
        ValueError: It is too long, or neither JSON nor a number.
        msgspec.DecodeError: The same.
    """
    if len(payload) > _MOST_BYTES:
        raise ValueError(f"{len(payload)} bytes")
    try:
        return msgspec.json.decode(payload)
    except msgspec.DecodeError:
        # "+21.5" and "007" are numbers, though not in JSON.
        return float(payload)
