"""How fast a shaft turns and what it carries, point by point; its angle is exact."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_simulator.signals.part import Part

__all__ = ["PointConfig", "Running", "Schedule", "check_points"]


class PointConfig(Part, frozen=True, kw_only=True):
    """The machine at one moment; between two points speed and load change evenly.

    Two points at the same time are a step.

    Attributes:
        at_s: Seconds since the first sample.
        shaft_hz: Revolutions a second.
        load: Share of the rated load, 0 to 10.
    """

    at_s: Annotated[float, Meta(ge=0)] = 0.0
    shaft_hz: Annotated[float, Meta(ge=0, le=10_000)]
    load: Annotated[float, Meta(ge=0, le=10)] = 1.0


class Running(NamedTuple):
    """The machine at many moments; all of shape (n,), float64.

    Attributes:
        turns: Revolutions since the first sample.
        shaft_hz: Revolutions a second.
        load: Share of the rated load.
    """

    turns: np.ndarray
    shaft_hz: np.ndarray
    load: np.ndarray


def check_points(points: Sequence[PointConfig], *, repeats: bool) -> None:
    """Check that points make a schedule.

    Raises:
        ConfigError: They do not begin at 0, go back in time, or cannot repeat.
    """
    times = [point.at_s for point in points]
    if times[0] != 0 or any(a > b for a, b in itertools.pairwise(times)):
        raise ConfigError(
            f"the schedule has points at {', '.join(f'{time:g}' for time in times)} s",
            expected="times from 0 on that never go back",
            remedy="Sort the points; the first one is at_s: 0.",
        )
    if repeats and times[-1] <= 0:
        raise ConfigError(
            "the schedule repeats after 0 s",
            expected="a last point later than the first",
            remedy="Add a point where the schedule begins again, or leave repeats out.",
        )


class Schedule:
    """Speed, load and angle of a shaft at any time.

    In a segment that begins at speed f with slope a, a time u later the shaft has made
    f u + a u²/2 more turns: the integral of its speed. Nothing is added up from sample
    to sample.

    Args:
        points: In the order of time, the first at 0; after the last all stays as it is.
        repeats: The schedule begins again at its last point.
    """

    def __init__(self, points: Sequence[PointConfig], *, repeats: bool = False) -> None:
        self._at_s = np.array([point.at_s for point in points])
        self._hz = np.array([point.shaft_hz for point in points])
        self._load = np.array([point.load for point in points])
        long_s = np.diff(self._at_s)
        self._hz_slope = _slopes(self._hz, long_s)
        self._load_slope = _slopes(self._load, long_s)
        means = (self._hz[:-1] + self._hz[1:]) / 2
        self._turns = np.concatenate(([0.0], np.cumsum(means * long_s)))
        self._period_s = float(self._at_s[-1]) if repeats else np.inf
        self._period_turns = float(self._turns[-1]) if repeats else np.inf

    def at(self, time_s: np.ndarray) -> Running:
        """Return the machine at times of at least 0."""
        cycle, inside_s = _fold(time_s, self._period_s)
        segment = np.searchsorted(self._at_s, inside_s, side="right") - 1
        later_s = inside_s - self._at_s[segment]
        hz, slope = self._hz[segment], self._hz_slope[segment]
        turns = self._turns[segment] + later_s * (hz + slope * later_s / 2)
        if np.isfinite(self._period_s):
            turns = turns + cycle * self._period_turns
        load = self._load[segment] + self._load_slope[segment] * later_s
        return Running(turns, hz + slope * later_s, load)

    def when(self, turns: np.ndarray) -> np.ndarray:
        """Return when the shaft has made so many turns, s; infinite where it never does.

        The stable root of f u + a u²/2 = turns: u = 2 turns / (f + sqrt(f² + 2 a turns)).
        """
        cycle, inside = _fold(turns, self._period_turns)
        segment = np.searchsorted(self._turns, inside, side="right") - 1
        more, hz = inside - self._turns[segment], self._hz[segment]
        # Rounding may carry the last turn of a ramp to standstill over its end.
        root = np.sqrt(np.maximum(hz * hz + 2 * self._hz_slope[segment] * more, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            later_s = np.where(more > 0, 2 * more / (hz + root), 0.0)
        time_s = self._at_s[segment] + later_s
        return time_s + cycle * self._period_s if np.isfinite(self._period_s) else time_s


def _slopes(values: np.ndarray, long_s: np.ndarray) -> np.ndarray:
    """Return what a value gains a second after each point; 0 at a step and after the last."""
    gains = np.divide(np.diff(values), long_s, out=np.zeros(len(long_s)), where=long_s > 0)
    return np.concatenate((gains, [0.0]))


def _fold(values: np.ndarray, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Part values into whole periods and what is left."""
    if not np.isfinite(period) or period <= 0:
        return np.zeros_like(values), values
    cycle = np.floor(values / period)
    return cycle, np.maximum(values - cycle * period, 0)
