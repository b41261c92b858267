"""Event times from the kernel's own stamps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.errors import SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.live import Health, WallTime
from edge_runtime.types import ClockQuality

__all__ = ["GridStamps", "KernelStamps"]

# Nothing waits in a buffer for so long: such stamps are of another clock.
_FOREIGN_NS = 120_000_000_000
# From so many periods on, a step may hide samples.
_GAP_PERIODS = 1.5
# Samples on either side of a long step that tell whether it was only a late stamp.
_BESIDE = 3
# How much of a block's deviation moves its times, and how much of it the period.
_PHASE_GAIN, _PERIOD_GAIN = 0.2, 0.02
_MOST_OFF = 0.1
_LEAST_STEP, _MOST_STEP = 0.5, 1.25


class GridStamps(NamedTuple):
    """Event times of one block.

    Attributes:
        time_ns: Shape (n,), int64.
        step_ns: Time from one to the next; None where samples are missing.
        lost: How many are missing before each, shape (n,), int64; None if none is.
    """

    time_ns: np.ndarray
    step_ns: int | None
    lost: np.ndarray | None


class KernelStamps:
    """Turns stamps of the monotonic clock into event times, and sees what is missing.

    A stamp is taken when an interrupt is served, a little late or a lot. The event
    times lie on an even grid that follows the stamps, so that no late one looks like
    a gap; where samples are missing, the grid jumps. Used by one thread.

    Args:
        rate_hz: Samples a second, as the part promises.
        clock: Tells time.
        health: Told about jitter and lost samples.
    """

    def __init__(self, rate_hz: float, clock: Clock, health: Health) -> None:
        self._clock = clock
        self._health = health
        self._nominal_ns = self._period_ns = 1e9 / rate_hz
        self._wall = WallTime(clock, health)
        self._last_stamp_ns: int | None = None
        self._grid_ns = 0

    @property
    def quality(self) -> ClockQuality:
        """How far the times may be trusted."""
        return self._wall.quality

    def stamp(self, stamps_ns: np.ndarray) -> GridStamps:
        """Return event times of a block.

        Args:
            stamps_ns: Shape (n,), int64, monotonic time.

        Raises:
            SourceError: The stamps do not tell when samples were taken.
        """
        now_ns = self._clock.monotonic_ns()
        if self._last_stamp_ns is None:
            self._grid_ns = self._last_stamp_ns = int(stamps_ns[0] - round(self._period_ns))
        steps = stamps_ns - np.append(self._last_stamp_ns, stamps_ns[:-1])
        self._last_stamp_ns = int(stamps_ns[-1])
        _check(stamps_ns, steps, now_ns)
        positions, missing = self._positions(steps)
        lost = 0 if missing is None else int(missing.sum())
        step_ns = self._follow(stamps_ns, positions, lost)
        times = self._grid_ns + np.rint(positions * step_ns).astype(np.int64)
        self._grid_ns = int(times[-1])
        times += self._wall.offset_ns(now_ns)
        return GridStamps(times, None if lost else round(step_ns), missing if lost else None)

    def _positions(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return how many steps of the grid lead to each sample, and how many are missing there."""
        positions = np.arange(1, len(steps) + 1)
        if steps.max() < _GAP_PERIODS * self._period_ns:
            return positions, None
        missing = self._missing(steps)
        self._health.lost(int(missing.sum()))
        return positions + np.cumsum(missing), missing

    def _missing(self, steps: np.ndarray) -> np.ndarray:
        """Return how many samples are missing before each.

        A late stamp makes a step too long, and the ones behind it as much too short:
        what remains of a long step after a few samples is what is missing.
        """
        periods = np.append(0, np.cumsum(steps / self._period_ns - 1))
        missing = np.zeros(len(steps), np.int64)
        for place in np.flatnonzero(steps >= _GAP_PERIODS * self._period_ns):
            before = periods[max(place + 1 - _BESIDE, 0) : place + 1].max()
            after = periods[place + 1 : place + 1 + _BESIDE].min()
            missing[place] = max(round(after - before), 0)
        return missing

    def _follow(self, stamps_ns: np.ndarray, positions: np.ndarray, lost: int) -> float:
        """Return the step of the grid, ns, with which it goes on after the stamps."""
        expected_ns = self._grid_ns + float(positions.mean()) * self._period_ns
        off_ns = float(stamps_ns.mean()) - expected_ns
        self._health.delay(off_ns)
        # A gap hides a jump: nothing speaks against going all the way.
        step_ns = self._period_ns + (1.0 if lost else _PHASE_GAIN) * off_ns / positions[-1]
        least_ns, most_ns = _LEAST_STEP * self._period_ns, _MOST_STEP * self._period_ns
        # No oscillator is off by more.
        quickest_ns, slowest_ns = (
            (1 - _MOST_OFF) * self._nominal_ns,
            (1 + _MOST_OFF) * self._nominal_ns,
        )
        period_ns = self._period_ns + _PERIOD_GAIN * off_ns / positions[-1]
        self._period_ns = min(max(period_ns, quickest_ns), slowest_ns)
        return float(min(max(step_ns, least_ns), most_ns))


def _check(stamps_ns: np.ndarray, steps: np.ndarray, now_ns: int) -> None:
    if abs(now_ns - int(stamps_ns[-1])) > _FOREIGN_NS:
        raise _unusable(f"is {stamps_ns[-1]} ns", f"monotonic time, now {now_ns} ns")
    if len(steps) > 3 and steps.min() <= 0 and np.count_nonzero(steps <= 0) > len(steps) / 2:
        raise _unusable("does not grow from sample to sample", "a stamp for every sample")


def _unusable(what: str, expected: str) -> SourceError:
    return SourceError(
        f"the driver's stamp {what}",
        where="in_timestamp",
        expected=expected,
        remedy="Set timestamps: false; event times then follow the arrivals.",
    )
