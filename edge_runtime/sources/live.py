"""What live sources share: event times, the grid of a poll, and what went wrong.

A live source has no past to replay. What it misses is counted here, and shows
as a jump in its event times: no window ever spans it.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np

from edge_runtime.clock import clock_quality
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.types import ClockQuality

__all__ = ["Health", "Polling", "SampleClock", "Stamps", "WallTime"]

_LEAST_TOLERANCE_NS = 50_000_000
_TOLERATED_PERIODS = 4
_PROOF_NS = 1_000_000_000
# A wall clock that is set moves by more than this; one that is steered does not.
_CLOCK_STEP_NS = 500_000_000
# How much of a block's delay moves its time, and how much of it the period.
_PHASE_GAIN, _PERIOD_GAIN = 0.05, 0.002
_JITTER_GAIN = 0.05
_MOST_OFF = 0.1
_QUALITY_EVERY_NS = 60_000_000_000


class Health:
    """Counts what a source notices; written by its thread, read by any."""

    def __init__(self) -> None:
        self._lost = 0
        self._faults: dict[str, int] = {}
        self._variance_ns2 = 0.0

    def lost(self, samples: int) -> None:
        """Count samples that were due and never came."""
        self._lost += samples

    def fault(self, reason: str, count: int = 1) -> None:
        """Count something that is wrong with the sensor."""
        # A new dictionary, so that a reader on another thread always sees a whole one.
        self._faults = self._faults | {reason: self._faults.get(reason, 0) + count}

    def delay(self, delay_ns: float) -> None:
        """Note how late a block came, or how early."""
        self._variance_ns2 += _JITTER_GAIN * (delay_ns * delay_ns - self._variance_ns2)

    def report(self) -> SourceHealth:
        """Return everything so far."""
        return SourceHealth(self._lost, math.sqrt(self._variance_ns2) / 1e9, self._faults)


class Stamps(NamedTuple):
    """Event times of one block.

    Attributes:
        time_ns: Shape (n,), int64.
        step_ns: Time from one to the next, give or take 1 ns.
        clock: How far they may be trusted.
        lost: Samples that are missing right before the first.
    """

    time_ns: np.ndarray
    step_ns: int
    clock: ClockQuality
    lost: int


class WallTime:
    """Turns monotonic time into wall time that never goes back; used by one thread.

    A wall clock that is set forward is followed. Where it is set back, times go on
    as before, and count as unsynced until it has caught up.

    Args:
        clock: Tells time.
        health: Told when the clock is set back.
    """

    def __init__(self, clock: Clock, health: Health) -> None:
        self._clock = clock
        self._health = health
        self._offset_ns: int | None = None
        self._is_set_back = False
        self._quality: ClockQuality = clock_quality()
        self._asked_ns = clock.monotonic_ns()

    @property
    def quality(self) -> ClockQuality:
        """How far the times may be trusted that `offset_ns` gave last."""
        return "unsynced" if self._is_set_back else self._quality

    def offset_ns(self, now_ns: int) -> int:
        """Return wall time less monotonic time, which is ``now_ns``; it never becomes smaller."""
        offset_ns = self._clock.now_ns() - now_ns
        if now_ns - self._asked_ns > _QUALITY_EVERY_NS:
            self._quality, self._asked_ns = clock_quality(), now_ns
        if self._offset_ns is None or offset_ns - self._offset_ns > _CLOCK_STEP_NS:
            self._offset_ns = offset_ns
        is_set_back = self._offset_ns - offset_ns > _CLOCK_STEP_NS
        if is_set_back and not self._is_set_back:
            self._health.fault("clock_set_back")
        self._is_set_back = is_set_back
        return self._offset_ns


class SampleClock:
    """Gives event times to samples that a part's own oscillator paces.

    The times of a block lie one period apart and go on where those of the block
    before ended; they follow the arrivals slowly, so that neither the scheduler
    nor a bus shakes them. Blocks that stay late for a second, and not only until
    a queue is emptied, show that samples are missing: these are counted, and the
    times jump. Times never go back: where the wall clock is set back they go on as
    before, and the clock counts as unsynced. Used by one thread.

    Args:
        rate_hz: Samples a second, as the part promises.
        clock: Tells time.
        health: Told about delays and lost samples.
    """

    def __init__(self, rate_hz: float, clock: Clock, health: Health) -> None:
        self._clock = clock
        self._health = health
        self._nominal_ns = self._period_ns = 1e9 / rate_hz
        self._tolerance_ns = max(_LEAST_TOLERANCE_NS, _TOLERATED_PERIODS * self._period_ns)
        self._last_ns: float | None = None
        self._late_since_ns: int | None = None
        self._least_delay_ns = math.inf
        self._passed = 0
        self._wall = WallTime(clock, health)

    def stamp(self, count: int, *, lost: int = 0, taken_ns: int | None = None) -> Stamps:
        """Return the times of a block that has arrived.

        Args:
            count: Samples in it, at least 1; the last one is the newest.
            lost: Samples right before it that the part itself says are missing.
            taken_ns: Monotonic time of the last one, where the part or its driver
                tells it; None for now.
        """
        now_ns = self._clock.monotonic_ns()
        offset_ns = self._wall.offset_ns(now_ns)
        now_ns = now_ns if taken_ns is None else taken_ns
        if self._last_ns is None:
            self._last_ns = now_ns - count * self._period_ns
        self._passed = 0
        self._pass_over(lost)
        step_ns = self._step(now_ns, count)
        steps = np.rint(np.arange(1, count + 1) * step_ns).astype(np.int64)
        times = steps + (round(self._last_ns) + offset_ns)
        self._last_ns += count * step_ns
        return Stamps(times, round(step_ns), self._wall.quality, self._passed)

    def _pass_over(self, samples: int) -> None:
        if samples and self._last_ns is not None:
            self._health.lost(samples)
            self._passed += samples
            self._last_ns += samples * self._nominal_ns

    def _step(self, now_ns: int, count: int) -> float:
        """Return the step with which a block that has just come goes on, ns."""
        delay_ns = now_ns - (self._last_ns or 0) - count * self._period_ns
        self._health.delay(delay_ns)
        if delay_ns > self._tolerance_ns:
            self._pass_over(self._missing(now_ns, delay_ns))
            return self._period_ns
        self._late_since_ns, self._least_delay_ns = None, math.inf
        period_ns = self._period_ns + _PERIOD_GAIN * delay_ns / count
        # No oscillator is off by so much: what is left shows as jitter, or as lost samples.
        least_ns, most_ns = (1 - _MOST_OFF) * self._nominal_ns, (1 + _MOST_OFF) * self._nominal_ns
        self._period_ns = min(max(period_ns, least_ns), most_ns)
        # The phase moves along the block: a jump in it would look like a gap.
        step_ns = self._period_ns + _PHASE_GAIN * delay_ns / count
        return min(max(step_ns, least_ns), most_ns)

    def _missing(self, now_ns: int, delay_ns: float) -> int:
        """Return how many samples must be missing, once that is certain; else 0."""
        if self._late_since_ns is None:
            self._late_since_ns = now_ns
        self._least_delay_ns = min(self._least_delay_ns, delay_ns)
        if now_ns - self._late_since_ns < _PROOF_NS:
            return 0
        missing = round(self._least_delay_ns / self._nominal_ns)
        self._late_since_ns, self._least_delay_ns = None, math.inf
        return missing


class Polling:
    """The grid on which a part is asked for its reading; used by one thread.

    Args:
        rate_hz: Readings a second.
        clock: Tells time.
        closed: Ends a wait when set.
    """

    def __init__(self, rate_hz: float, clock: Clock, closed: threading.Event) -> None:
        self._period_ns = 1e9 / rate_hz
        self._clock = clock
        self._closed = closed
        self._start_ns = clock.monotonic_ns()
        self._asked = 0

    def wait(self, timeout_s: float) -> int | None:
        """Wait until the next reading is due.

        Returns:
            How many readings before it were missed, usually 0; None if none is due
            within ``timeout_s`` or the source was closed.
        """
        now_ns = self._clock.monotonic_ns()
        delay_s = (self._start_ns + self._asked * self._period_ns - now_ns) / 1e9
        if delay_s > 0:
            self._closed.wait(min(delay_s, timeout_s))
            now_ns = self._clock.monotonic_ns()
        due = int((now_ns - self._start_ns) / self._period_ns) + 1
        if self._closed.is_set() or due <= self._asked:
            return None
        missed, self._asked = due - self._asked - 1, due
        return missed
