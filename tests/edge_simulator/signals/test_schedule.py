"""The shaft's angle is the integral of its speed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_simulator.signals.schedule import PointConfig, Schedule, check_points


@st.composite
def _points(draw: st.DrawFn, *, least_hz: float = 0.0) -> list[PointConfig]:
    """Ramps, plateaus and steps."""
    gaps = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.25]), min_size=1, max_size=6))
    times = np.concatenate(([0.0], np.cumsum(gaps))).tolist()
    speed = st.floats(least_hz, 100.0)
    return [
        PointConfig(at_s=time, shaft_hz=draw(speed), load=draw(st.floats(0, 2))) for time in times
    ]


@given(_points(), st.booleans())
def test_angle_is_the_integral_of_the_speed(points: list[PointConfig], repeats: bool) -> None:
    """The midpoint rule is exact on straight lines."""
    repeats = repeats and points[-1].at_s > 0
    schedule = Schedule(points, repeats=repeats)
    # Multiples of 1/8 meet every point, and between two of them speed is a straight line.
    time_s = np.arange(0, 60, 1 / 8)
    middle = schedule.at(time_s[:-1] + 1 / 16).shaft_hz

    turns = schedule.at(time_s).turns

    assert np.diff(turns) == pytest.approx(middle / 8, rel=1e-9, abs=1e-9)


@given(_points(least_hz=0.1), st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.booleans())
def test_when_is_the_inverse_of_the_angle(
    points: list[PointConfig], times: list[float], repeats: bool
) -> None:
    """Wherever the shaft turns, its angle tells the time."""
    schedule = Schedule(points, repeats=repeats and points[-1].at_s > 0)
    time_s = np.array(times)

    assert schedule.when(schedule.at(time_s).turns) == pytest.approx(time_s, rel=1e-9, abs=1e-7)


def test_a_step_changes_the_speed_at_once_and_the_angle_never() -> None:
    """Two points at one time are a step."""
    points = [
        PointConfig(shaft_hz=10),
        PointConfig(at_s=2, shaft_hz=10),
        PointConfig(at_s=2, shaft_hz=40),
    ]

    around = Schedule(points).at(np.array([2 - 1e-9, 2.0]))

    assert around.shaft_hz.tolist() == [10, 40]
    assert around.turns == pytest.approx([20, 20], abs=1e-6)


def test_load_changes_evenly_and_stays_after_the_last_point() -> None:
    """Load is interpolated as speed is."""
    points = [PointConfig(shaft_hz=10, load=0), PointConfig(at_s=4, shaft_hz=10, load=1)]

    assert Schedule(points).at(np.array([0.0, 1, 4, 99])).load.tolist() == [0, 0.25, 1, 1]


def test_turns_that_are_never_made_come_at_infinity() -> None:
    """A shaft that has come to rest strikes no more."""
    points = [PointConfig(shaft_hz=10), PointConfig(at_s=2, shaft_hz=0)]

    assert Schedule(points).when(np.array([10.0, 10.5])).tolist() == [2.0, np.inf]


@pytest.mark.parametrize(
    ("times", "repeats", "message"),
    [
        ([1.0], False, "points at 1 s"),
        ([0.0, 3.0, 2.0], False, "0, 3, 2 s"),
        ([0.0], True, "after 0 s"),
    ],
)
def test_points_that_make_no_schedule_are_refused(
    times: list[float], repeats: bool, message: str
) -> None:
    """Time begins at 0 and does not go back."""
    points = [PointConfig(at_s=time, shaft_hz=1) for time in times]

    with pytest.raises(ConfigError, match=message):
        check_points(points, repeats=repeats)
