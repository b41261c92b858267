"""The source that plays a simulated signal on the real device code."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources import Grid, Pace, RealTime, Unpaced
from edge_runtime.sources.instants import Instant, instant_ns
from edge_runtime.sources.suspects import Patience
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame
from edge_simulator.signals import SensorFault, Signal, SignalConfig, build_signal, distort
from edge_simulator.signals.interval import Interval, Stretch
from edge_simulator.signals.part import Part
from edge_simulator.signals.presence import Presence
from edge_simulator.signals.suspects import Suspects

__all__ = ["SimulatedConfig", "SimulatedSource", "sensor_of"]

_RATE_TOLERANCE = 1e-3
_FOREIGN_PACE_S = 0.5


class SimulatedConfig(Part, frozen=True, kw_only=True):
    """Options of a simulated sensor.

    Attributes:
        signal: ``kind`` and options of what the sensor reads.
        faults: What is wrong with the sensor, the first nearest to the world.
        seed: Signals and faults of one seed are the same.
        start: Time of the first sample.
        duration_s: Event time after which it ends; None never ends, or as the recording does.
        speed: 1 for real time, N for N times as fast, ``max`` for no pace.
        block: Most samples in a frame.
        frozen_s: A sensor that is stuck for so long is marked as frozen; None never.
    """

    signal: SignalConfig
    faults: tuple[SensorFault, ...] = ()
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    start: Instant = datetime(2024, 1, 1, tzinfo=UTC)
    duration_s: Annotated[float, Meta(gt=0)] | None = None
    speed: Annotated[float, Meta(gt=0)] | Literal["max"] = 1.0
    block: Annotated[int, Meta(ge=1, le=65536)] = 256
    frozen_s: Patience = 1.0

    @property
    def declared_rate_hz(self) -> float:
        """Samples a second."""
        return self.signal.rate_hz

    @property
    def declared_channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(channel.name for channel in self.signal.channels)


def sensor_of(config: SimulatedConfig) -> Signal:
    """Return what the sensor gives, faults and truth included; sample 0 is at ``start``.

    Raises:
        ConfigError: A fault names a channel that there is not, or a recording does not fit.
        SourceError: A recording cannot be read.
    """
    return distort(build_signal(config.signal, config.seed), config.faults, seed=config.seed)


class SimulatedSource:
    """Plays a simulated sensor; index = how many samples it delivered before.

    Delivery: can be replayed; opened at index k it delivers exactly the samples from k on.
    While the sensor is unplugged `read` raises: without a pace once for each time, then event
    time goes on behind the gap; in real time until the gap has passed. Thread: one reads, any
    may close.

    Args:
        config: Options.
        clock: Followed when the speed is not ``max``.

    Attributes:
        pace: Replaces the pace that ``speed`` asks for, if set before `open`.
    """

    Config = SimulatedConfig

    def __init__(self, config: SimulatedConfig, *, clock: Clock | None = None) -> None:
        self.pace: Pace | None = None
        self._config = config
        self._clock = clock or SystemClock()
        self._closed = threading.Event()
        self._grid = Grid(instant_ns(config.start), config.declared_rate_hz)
        self._presence = Presence(config.faults, config.declared_rate_hz, seed=config.seed)
        self._signal: Signal | None = None
        self._suspects: Suspects | None = None
        # Both live as long as the source: event time goes on while a sensor is opened again.
        self._real_time: RealTime | None = None
        self._told: set[Stretch] = set()
        self._stream = ""
        self._columns: list[int] = []
        self._index = 0
        self._reached = 0
        self._next: int | None = None
        self._last: int | None = None

    @property
    def is_exhausted(self) -> bool:
        """Whether the last sample was delivered; False before the first open."""
        return self._signal is not None and self._gap() is None and self._is_at_end

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Start at the sample that is delivered as number ``index``.

        Raises:
            ConfigError: Channels, rate or faults do not fit.
            SourceError: A recording cannot be read.
        """
        self._closed.clear()
        self._check_rate(need)
        self._columns = self._places(need)
        signal = self._signal or sensor_of(self._config)
        self._suspects = Suspects(
            signal,
            self._config.signal,
            self._config.faults,
            self._columns,
            patience_s=self._config.frozen_s,
        )
        self._last = self._end_of(signal)
        before = self._presence.sample_of(index - 1) if index else -1
        self._stream, self._index, self._signal = stream, index, signal
        # Behind the last sample there is only the gap that never ends.
        self._reach(self._presence.unplugged[-1][0] if before is None else before + 1)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next block as soon as its pace allows; None if not within ``timeout_s``.

        Raises:
            SourceError: The sensor is unplugged.
        """
        signal = self._signal
        if signal is None or self._closed.is_set():
            return None
        while (gap := self._gap()) is not None:
            if not self._is_passed(gap, timeout_s):
                return None
        first = self._next
        if first is None or self._is_at_end:
            return None
        granted = self._granted(first, timeout_s)
        if granted <= 0 or self._closed.is_set():
            return None
        return self._frame(signal, first, min(granted, self._config.block))

    def close(self) -> None:
        """Make a waiting read return and stop; safe to call twice and from any thread."""
        self._closed.set()

    # --- samples ------------------------------------------------------------------

    @property
    def _is_at_end(self) -> bool:
        return self._last is not None and (self._next is None or self._next >= self._last)

    def _reach(self, sample: int) -> None:
        """Go on at the first sample from here on that is delivered."""
        self._reached, self._next = sample, self._presence.following(sample)

    def _frame(self, signal: Signal, first: int, count: int) -> Frame:
        count = min(count, self._until_end(first))
        time_ns = self._grid.times(first, count)
        readings = signal.read(first, count)
        present, quality = self._judged(first, readings)
        samples = readings if self._has_all else readings[:, self._columns]
        step_ns = round(1e9 / signal.rate_hz) if present.all() else None
        if step_ns is None:
            time_ns, samples = time_ns[present], samples[present]
            quality = None if quality is None else quality[present]
        frame = Frame(self._stream, self._index, time_ns, samples, step_ns=step_ns, quality=quality)
        self._index += len(frame)
        self._reach(first + count)
        return frame

    def _judged(self, first: int, readings: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return which samples are delivered, and what is suspect about each."""
        assert self._suspects is not None  # noqa: S101 - opened before
        # What is before the first sample of all was never due.
        begin = max(first - 1, 0)
        known = self._presence.mask(begin, first - begin + len(readings))
        present = known if first else np.concatenate(([True], known))
        return present[1:], self._suspects.masks(first, readings, present)

    def _until_end(self, first: int) -> int:
        """Return how many samples there are before the end and before the next gap."""
        ends = [stretch[0] for stretch in self._presence.unplugged if stretch[0] > first]
        if self._last is not None:
            ends.append(self._last)
        return min(ends, default=first + self._config.block) - first

    def _end_of(self, signal: Signal) -> int | None:
        """Return the sample to stop before."""
        wanted = Interval(to_s=self._config.duration_s).samples(signal.rate_hz)[1]
        return min((end for end in (wanted, signal.length) if end is not None), default=None)

    # --- pace -----------------------------------------------------------------------

    def _granted(self, sample: int, timeout_s: float) -> int:
        """Return how many samples from ``sample`` on may be delivered."""
        time_ns = self._grid.due_ns(sample)
        if self.pace is not None:
            # Only our own pace notices that the source is closed.
            return self.pace.wait(self._index, time_ns, min(timeout_s, _FOREIGN_PACE_S))
        return self._own_pace().wait(sample, time_ns, timeout_s)

    def _own_pace(self) -> Pace:
        if self._config.speed == "max":
            return Unpaced()
        if self._real_time is None:
            self._real_time = RealTime(
                self._config.speed, self._clock, time_ns=self._grid, closed=self._closed
            )
        return self._real_time

    # --- the plug --------------------------------------------------------------------

    def _gap(self) -> Stretch | None:
        """Return when the sensor is unplugged before the next sample, if it is."""
        limits = [end for end in (self._next, self._last) if end is not None]
        for gap in self._presence.unplugged:
            is_ahead = gap[1] is None or gap[1] > self._reached
            if is_ahead and gap[0] < min(limits, default=math.inf):
                return None if self._is_known_end(gap) else gap
        return None

    def _is_known_end(self, gap: Stretch) -> bool:
        """Whether a recording ends while the sensor is unplugged, and that was told."""
        ends = self._last is not None and (gap[1] is None or gap[1] >= self._last)
        return ends and gap in self._told

    def _is_passed(self, gap: Stretch, timeout_s: float) -> bool:
        """Return whether it is plugged in again; False where the gap has not even begun.

        Raises:
            SourceError: The sensor is unplugged.
        """
        if gap not in self._told:
            if self._granted(max(gap[0], self._reached), timeout_s) <= 0 or self._closed.is_set():
                return False
            self._told.add(gap)
            raise self._unplugged(gap)
        if gap[1] is not None and self._is_over(gap[1]):
            self._reach(gap[1])
            return True
        if self._closed.is_set():
            return False
        raise self._unplugged(gap)

    def _is_over(self, sample: int) -> bool:
        """Whether event time has reached a sample; only our own pace knows."""
        return self.pace is not None or self._granted(sample, 0.0) > 0

    def _unplugged(self, gap: Stretch) -> SourceError:
        rate_hz = self._config.declared_rate_hz
        ends = "for ever" if gap[1] is None else f"to {gap[1] / rate_hz:g} s"
        return SourceError(
            f"the sensor is unplugged from {gap[0] / rate_hz:g} s of event time {ends}",
            where=self._stream,
            expected="a sensor",
            remedy="The configuration simulates it: see the fault 'unplug'.",
        )

    # --- checks ----------------------------------------------------------------------

    def _check_rate(self, need: StreamSpec) -> None:
        rate_hz = self._config.declared_rate_hz
        if not math.isclose(rate_hz, need.rate_hz, rel_tol=_RATE_TOLERANCE):
            raise ConfigError(
                f"the simulated signal has {rate_hz:g} Hz",
                where=str(self._config.signal.__struct_config__.tag),
                expected=f"the model's {need.rate_hz:g} Hz",
                remedy="Set signal.rate_hz to it.",
            )

    @property
    def _has_all(self) -> bool:
        """Whether all channels are delivered, in order."""
        return self._columns == list(range(len(self._config.declared_channels)))

    def _places(self, need: StreamSpec) -> list[int]:
        """Return where the needed channels stand."""
        known = self._config.declared_channels
        missing = [name for name in need.names if name not in known]
        if missing:
            raise ConfigError(
                f"the simulated signal has the channels {', '.join(known)}",
                where=str(self._config.signal.__struct_config__.tag),
                expected=f"also {', '.join(missing)}",
                remedy="Name its channels as the model does.",
            )
        return [known.index(name) for name in need.names]
