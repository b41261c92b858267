"""Two ways from readings that come when they come to samples with times."""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from edge_runtime.ports import Clock
from edge_runtime.sources.live import Health, Polling, SampleClock, WallTime
from edge_runtime.sources.mqtt.config import MqttConfig
from edge_runtime.sources.mqtt.inbox import Inbox
from edge_runtime.sources.mqtt.readings import Decoder, Readings
from edge_runtime.sources.suspects import Frozen, FullScale, note_suspects
from edge_runtime.spec import StreamSpec
from edge_runtime.types import ClockQuality

__all__ = ["ArrivalTiming", "Block", "GridTiming", "Held", "Setting", "Timing"]

# Fast streams are delivered in blocks of about so long.
_BLOCK_S = 0.05
# How long messages may lie in the inbox while the grid waits.
_DRAIN_S = 0.5
_MOST_ROWS = 4096
# A sender's clock that is ahead by more than this is counted.
_AHEAD_NS = 1_000_000_000


class Setting(NamedTuple):
    """What a timing works with.

    Attributes:
        config: Options.
        need: Channels and rate.
        inbox: Where messages come from.
        clock: Tells time.
        health: Told about samples that are missing.
        closed: Ends a wait when set.
    """

    config: MqttConfig
    need: StreamSpec
    inbox: Inbox
    clock: Clock
    health: Health
    closed: threading.Event


class Block(NamedTuple):
    """Samples with their times, as in a frame."""

    time_ns: np.ndarray
    samples: np.ndarray
    clock: ClockQuality
    step_ns: int | None
    quality: np.ndarray | None
    keys: np.ndarray | None = None


class _Judge:
    """Says what is suspect about samples."""

    def __init__(self, config: MqttConfig, need: StreamSpec, health: Health) -> None:
        self._frozen = Frozen(config.frozen_s, need.rate_hz)
        self._scale = FullScale(config.full_scale, need.names)
        self._health = health

    def note(self, samples: np.ndarray, lost: np.ndarray) -> np.ndarray | None:
        """Count what is suspect, and return the masks; ``lost`` are missing before each."""
        return note_suspects(
            self._health,
            len(samples),
            saturated=self._scale.find(samples),
            frozen=self._frozen.find(samples),
            lost=lost,
        )


class Timing(Protocol):
    """Makes blocks of what comes into an inbox; used by one thread."""

    def read(self, timeout_s: float) -> Block | None:
        """Return the next block, or None if none came within ``timeout_s``.

        Raises:
            SourceError: The link gave up.
        """
        ...


class Held:
    """One channel on a grid: the newest value at or before an instant holds.

    Of several values between two points of the grid only the last is kept.

    Args:
        max_age_ns: Longest time for which a value holds.
    """

    def __init__(self, max_age_ns: float) -> None:
        self._max_age_ns = max_age_ns
        self._times_ns: list[int] = []
        self._points: list[int] = []
        self._values: list[float] = []

    def put(self, time_ns: int, point: int, value: float) -> None:
        """Take a value.

        Args:
            time_ns: When it was measured, in any order.
            point: First point of the grid at or after it.
            value: The value.
        """
        at = bisect.bisect_right(self._times_ns, time_ns)
        if at < len(self._points) and self._points[at] == point:
            return
        first = at - 1 if at and self._points[at - 1] == point else at
        self._times_ns[first:at] = [time_ns]
        self._points[first:at] = [point]
        self._values[first:at] = [value]

    def take(self, points_ns: np.ndarray) -> np.ndarray:
        """Return what holds at instants that grow, shape (n,); forget what no later one needs."""
        if not self._times_ns:
            return np.full(len(points_ns), np.nan)
        times, values = np.array(self._times_ns), np.array(self._values)
        at = np.searchsorted(times, points_ns, side="right") - 1
        holds = (at >= 0) & (points_ns - times[at] <= self._max_age_ns)
        done = max(0, int(at[-1]))
        del self._times_ns[:done], self._points[:done], self._values[:done]
        return np.where(holds, values[at], np.nan)


class GridTiming:
    """Samples lie on an even grid in time, at the rate of the stream.

    A sample holds each channel's newest value that is not older than the maximum age;
    NaN stands for the others. Where no channel has one, there is no sample but a gap.
    """

    def __init__(self, setting: Setting) -> None:
        config, need, inbox, clock, health, closed = setting
        rate_hz = need.rate_hz
        self._inbox = inbox
        self._clock = clock
        self._health = health
        self._closed = closed
        # Only differences are taken here, so the wall clock may be set meanwhile.
        self._decoder = Decoder(config, need, health, lambda: clock.now_ns() - clock.monotonic_ns())
        self._is_timed = config.time is not None
        self._delay_ns = round(config.delay_s * 1e9)
        self._held = [Held(config.max_age_s * 1e9) for _ in need.channels]
        self._period_ns = 1e9 / rate_hz
        self._block_rows = max(1, math.floor(rate_hz * _BLOCK_S))
        self._start_ns = clock.monotonic_ns() - self._delay_ns
        self._polling = Polling(rate_hz / self._block_rows, clock, closed)
        self._times = SampleClock(rate_hz, clock, health)
        self._judge = _Judge(config, need, health)
        self._is_gap = False
        # Points up to this one were delivered; point 0 is the start.
        self._point = -self._block_rows
        self._has_begun = False

    def read(self, timeout_s: float) -> Block | None:
        """Return the next points of the grid, as `Timing` says."""
        deadline_ns = self._clock.monotonic_ns() + timeout_s * 1e9
        while True:
            left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
            missed = self._polling.wait(min(max(0.0, left_s), _DRAIN_S))
            self._drain()
            block = None if missed is None else self._block(missed)
            if block is not None or left_s <= 0 or self._closed.is_set():
                return block

    def _drain(self) -> None:
        for arrival in self._inbox.take(0.0):
            readings = self._decoder.decode(arrival)
            if readings is not None:
                self._hold(readings, arrival.time_ns)

    def _hold(self, readings: Readings, arrived_ns: int) -> None:
        """Keep the values of a message, none of which is from the future."""
        measured_ns = readings.time_ns - readings.offset_ns
        self._count("ahead", int((measured_ns > arrived_ns + _AHEAD_NS).sum()))
        times_ns = np.minimum(measured_ns, arrived_ns).tolist()
        points = [math.ceil((time - self._start_ns) / self._period_ns) for time in times_ns]
        if self._is_timed:
            self._count("late", sum(point <= self._point for point in points))
        for channel, column in zip(readings.channels, readings.values.T.tolist(), strict=True):
            for time_ns, point, value in zip(times_ns, points, column, strict=True):
                if not math.isnan(value):
                    self._held[channel].put(time_ns, point, value)

    def _count(self, reason: str, count: int) -> None:
        if count:
            self._health.fault(reason, count)

    def _block(self, missed: int) -> Block | None:
        """Return the points that are due; None where no value holds at any of them."""
        due = (missed + 1) * self._block_rows
        rows = min(due, _MOST_ROWS)
        self._point += due
        points = np.arange(self._point - rows + 1, self._point + 1)
        points_ns = self._start_ns + np.rint(points * self._period_ns).astype(np.int64)
        samples = np.stack([held.take(points_ns) for held in self._held], axis=1)
        stamps = self._times.stamp(rows, lost=due - rows)
        kept: np.ndarray = np.logical_or.reduce(~np.isnan(samples), axis=1)
        self._has_begun = self._has_begun or bool(kept.any())
        if self._has_begun:
            self._health.lost(int((~kept).sum()))
        is_after_gap = np.append(self._is_gap or stamps.lost > 0, ~kept[:-1])
        self._is_gap = self._has_begun and not kept[-1]
        if not kept.any():
            return None
        step_ns = stamps.step_ns if kept.all() else None
        times = stamps.time_ns[kept] - self._delay_ns
        quality = self._judge.note(samples[kept], is_after_gap[kept])
        return Block(times, samples[kept], stamps.clock, step_ns, quality)


class ArrivalTiming:
    """Every reading is a sample, at its own time or the time it came.

    Times grow: a reading that is not later than the one before is counted
    (``out_of_order``) and left out. Gaps longer than one and a half periods count as
    lost samples. Where readings are of many devices, neither is looked at here, and a
    channel that a message does not hold is NaN.
    """

    def __init__(self, setting: Setting) -> None:
        config, need, inbox, clock, health, closed = setting
        self._inbox = inbox
        self._clock = clock
        self._health = health
        self._closed = closed
        self._wall = WallTime(clock, health)
        self._decoder = Decoder(
            config, need, health, lambda: self._wall.offset_ns(clock.monotonic_ns())
        )
        self._is_timed = config.time is not None
        self._is_keyed = config.key is not None
        self._width = len(need.names)
        self._period_ns = 1e9 / need.rate_hz
        self._judge = _Judge(config, need, health)
        self._linger_s = _BLOCK_S if need.rate_hz * _BLOCK_S >= 1 else 0.0
        self._last_ns: int | None = None

    def read(self, timeout_s: float) -> Block | None:
        """Return what has come, as `Timing` says."""
        deadline_ns = self._clock.monotonic_ns() + timeout_s * 1e9
        while True:
            left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
            arrivals = self._inbox.take(max(0.0, left_s))
            if arrivals and self._linger_s and left_s > 0:
                self._closed.wait(min(left_s, self._linger_s))
                arrivals += self._inbox.take(0.0)
            block = self._block([self._decoder.decode(arrival) for arrival in arrivals])
            if block is not None or left_s <= 0 or self._closed.is_set():
                return block

    def _block(self, decoded: Sequence[Readings | None]) -> Block | None:
        found = [readings for readings in decoded if readings is not None]
        if not found:
            return None
        if self._is_keyed:
            return self._keyed_block(found)
        times_ns = np.concatenate([readings.time_ns for readings in found])
        samples = np.concatenate([readings.values for readings in found])
        kept = self._growing(times_ns)
        if not kept.any():
            return None
        lost = self._lost_before(times_ns[kept])
        judged = self._judge.note(samples[kept], lost)
        return Block(times_ns[kept], samples[kept], self._clock_quality, None, judged)

    @property
    def _clock_quality(self) -> ClockQuality:
        """Nobody knows how well the clock of a sender is kept."""
        return "unsynced" if self._is_timed else self._wall.quality

    def _keyed_block(self, found: Sequence[Readings]) -> Block:
        times_ns = np.concatenate([readings.time_ns for readings in found])
        keys = np.empty(len(times_ns), np.object_)
        samples = np.full((len(times_ns), self._width), np.nan)
        first = 0
        for readings in found:
            rows = slice(first, first := first + len(readings.time_ns))
            keys[rows] = readings.key
            samples[rows, list(readings.channels)] = readings.values
        judged = self._judge.note(samples, np.zeros(len(times_ns)))
        return Block(times_ns, samples, self._clock_quality, None, judged, keys)

    def _growing(self, times_ns: np.ndarray) -> np.ndarray:
        """Return which samples are later than all before them, and count the others."""
        last_ns = times_ns[0] - 1 if self._last_ns is None else self._last_ns
        newest = np.maximum.accumulate(np.concatenate([[last_ns], times_ns]))[:-1]
        kept: np.ndarray = times_ns > newest
        if not kept.all():
            self._health.fault("out_of_order", int((~kept).sum()))
        return kept

    def _lost_before(self, times_ns: np.ndarray) -> np.ndarray:
        """Count how many samples are missing before each, shape (n,)."""
        before = times_ns[:1] if self._last_ns is None else [self._last_ns]
        steps = np.diff(np.concatenate([before, times_ns])) / self._period_ns
        lost = np.where(steps > 1.5, np.rint(steps - 1), 0)
        self._health.lost(int(lost.sum()))
        self._last_ns = int(times_ns[-1])
        return lost
