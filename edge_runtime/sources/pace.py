"""How fast a recording is replayed."""

from __future__ import annotations

import math
import threading
from typing import Protocol

import numpy as np

from edge_runtime.ports import Clock

__all__ = ["Grid", "Pace", "RealTime", "Unpaced"]

_TICK_NS = 20_000_000
_ALL = 1 << 62


class Pace(Protocol):
    """Decides when samples of a recording may be delivered; used by one thread."""

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:
        """Wait until samples from ``index`` on may be delivered.

        Args:
            index: Stream index of the next sample.
            time_ns: Its event time.
            timeout_s: Longest time to wait; a closing source waits no longer than this.

        Returns:
            How many samples from ``index`` on may be delivered now; 0 if none
            within ``timeout_s``.
        """
        ...


class Unpaced:
    """As fast as possible."""

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:  # noqa: ARG002
        """Allow everything at once."""
        return _ALL


class Grid:
    """Event times of samples that come evenly for ever.

    Exact to the nanosecond, for ever, where a period is a whole number of nanoseconds or
    a second a whole number of periods; else for the first hundred days.

    Args:
        start_ns: Time of sample 0.
        rate_hz: Samples a second.
    """

    def __init__(self, start_ns: int, rate_hz: float) -> None:
        self._start_ns = start_ns
        self._rate_hz = rate_hz
        self._step_ns = 1e9 / rate_hz

    def times(self, first: int, count: int) -> np.ndarray:
        """Return the times of ``count`` samples from ``first`` on, shape (count,), int64."""
        return self._start_ns + self._since_start(np.arange(first, first + count, dtype=np.int64))

    def due_ns(self, index: int) -> int:
        """Return the time of one sample."""
        return int(self.times(index, 1)[0])

    def count(self, reached_ns: int) -> int:
        """Return how many samples lie at or before a time."""
        return max(0, math.floor((reached_ns - self._start_ns) / self._step_ns) + 1)

    def _since_start(self, index: np.ndarray) -> np.ndarray:
        if self._step_ns == round(self._step_ns):
            return index * round(self._step_ns)
        seconds: np.ndarray = np.zeros_like(index)
        if self._rate_hz == round(self._rate_hz):
            seconds, index = np.divmod(index, round(self._rate_hz))
        return seconds * 1_000_000_000 + np.rint(index * self._step_ns).astype(np.int64)


class _Listed:
    """Event times one by one; see `Grid`. A step back in time is due with what came before."""

    def __init__(self, time_ns: np.ndarray) -> None:
        self._due_ns = np.maximum.accumulate(time_ns) if len(time_ns) else time_ns

    def due_ns(self, index: int) -> int:
        return int(self._due_ns[index])

    def count(self, reached_ns: int) -> int:
        return int(np.searchsorted(self._due_ns, reached_ns, side="right"))


class RealTime:
    """Replays event time ``speed`` times as fast as it passed.

    The first sample asked for is due at once; the others follow at their
    distance in event time. Samples that lie back in time are due with the
    sample before them. Fast streams are handed out in blocks, at most 50 a
    second.

    Args:
        speed: 1 for real time, N for N times as fast.
        clock: Its monotonic time is followed.
        time_ns: Event times of the recording, shape (n,), int64, or their `Grid`.
        first: Stream index of the first of them.
        closed: Ends a wait when set.
    """

    def __init__(
        self,
        speed: float,
        clock: Clock,
        *,
        time_ns: np.ndarray | Grid,
        first: int = 0,
        closed: threading.Event | None = None,
    ) -> None:
        self._speed = speed
        self._clock = clock
        self._times = time_ns if isinstance(time_ns, Grid) else _Listed(time_ns)
        self._first = first
        self._closed = closed or threading.Event()
        self._start: tuple[int, int] | None = None
        self._granted_ns: int | None = None

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:  # noqa: ARG002
        """Wait until the sample at ``index`` is due; see `Pace`."""
        now_ns = self._clock.monotonic_ns()
        due_ns = self._times.due_ns(index - self._first)
        if self._start is None:
            self._start = (now_ns, due_ns)
        delay_s = (self._wake_ns(due_ns) - now_ns) / 1e9
        if delay_s > 0:
            # The clock may be simulated: after the wait it is asked again.
            self._closed.wait(min(delay_s, timeout_s))
            now_ns = self._clock.monotonic_ns()
        if self._closed.is_set() or now_ns < self._wake_ns(due_ns):
            return 0
        self._granted_ns = now_ns
        # Rounding may put a due sample a nanosecond ahead.
        return max(1, self._count_due(now_ns) - (index - self._first))

    def _wake_ns(self, due_ns: int) -> int:
        """Return when to deliver what is due at ``due_ns``, in monotonic time."""
        began_ns, zero_ns = self._start or (0, due_ns)
        wanted_ns = began_ns + round((due_ns - zero_ns) / self._speed)
        if self._granted_ns is not None and wanted_ns > self._granted_ns:
            return max(wanted_ns, self._granted_ns + _TICK_NS)
        return wanted_ns

    def _count_due(self, now_ns: int) -> int:
        began_ns, zero_ns = self._start or (now_ns, 0)
        reached_ns = zero_ns + round((now_ns - began_ns) * self._speed)
        return self._times.count(reached_ns)
