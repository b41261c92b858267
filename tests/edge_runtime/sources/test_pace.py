"""An endless grid of event times, exact for ever."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sources import Grid, RealTime
from edge_runtime.testing import FakeClock

START_NS = 1_704_067_200_000_000_000
YEAR_S = 365 * 86_400


@given(
    st.sampled_from([3200, 3000, 44_100, 7, 1, 16_384]),
    st.integers(0, 200 * YEAR_S),
    st.integers(0, 50_000),
)
def test_times_of_whole_rates_are_exact_for_ever(rate_hz: int, second: int, later: int) -> None:
    """Sample n is n / rate seconds after the start, to the nanosecond, also after years."""
    first = second * rate_hz + later
    times = Grid(START_NS, float(rate_hz)).times(first, 50)

    exact = [START_NS + Fraction(n * 10**9, rate_hz) for n in range(first, first + 50)]
    assert max(abs(int(time) - one) for time, one in zip(times, exact, strict=True)) <= 0.5


@pytest.mark.parametrize("rate_hz", [0.1, 1 / 3600, 0.25, 12.5])
def test_times_of_slow_rates_lie_whole_steps_apart(rate_hz: float) -> None:
    """One row an hour stays exact for a century."""
    step_ns = round(1e9 / rate_hz)

    times = Grid(START_NS, rate_hz).times(10**5, 1000)

    assert times.tolist() == [START_NS + (10**5 + n) * step_ns for n in range(1000)]


@given(st.integers(0, 10**9), st.integers(0, 300))
def test_any_part_of_the_grid_is_that_part(first: int, count: int) -> None:
    """Times do not depend on what else is asked for."""
    grid = Grid(START_NS, 44_100.0)
    whole = grid.times(first, count + 100)

    assert grid.times(first + 100, count).tobytes() == whole[100:].tobytes()
    assert grid.due_ns(first) == whole[0]


@given(st.integers(0, 10**7))
def test_count_is_the_inverse_of_the_times(index: int) -> None:
    """At the time of sample n there are n + 1 samples, just before it n."""
    grid = Grid(START_NS, 3200.0)

    assert grid.count(grid.due_ns(index)) == index + 1
    assert grid.count(grid.due_ns(index) - 1000) == index
    assert grid.count(START_NS - 1) == 0


def test_real_time_follows_a_grid_as_it_follows_a_list() -> None:
    """The same samples are due at the same moments."""
    listed_clock, grid_clock = FakeClock(), FakeClock()
    grid = Grid(START_NS, 100.0)
    listed = RealTime(2.0, listed_clock, time_ns=grid.times(0, 1000))
    endless = RealTime(2.0, grid_clock, time_ns=grid)
    granted = []

    index = 10
    for seconds in (0, 0.004, 0.004, 0.3, 0.017, 1.0):
        for clock in (listed_clock, grid_clock):
            clock.advance(seconds)
        answers = [pace.wait(index, grid.due_ns(index), 0.0) for pace in (listed, endless)]
        granted.append(answers)
        index += answers[0]

    assert all(one == other for one, other in granted)
    assert index == 10 + int(np.floor(1.325 * 200)) + 1
