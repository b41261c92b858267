"""Stretches of event time and the samples in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_simulator.signals.interval import ALWAYS, Interval, indicator, stretches

TENTHS = st.integers(0, 300).map(lambda tenths: tenths / 10)
INTERVALS = st.builds(
    lambda from_s, long_s: Interval(from_s, None if long_s is None else from_s + long_s),
    TENTHS,
    st.none() | TENTHS.filter(bool),
)


@given(st.lists(INTERVALS, max_size=5), st.integers(0, 200), st.integers(0, 200))
def test_a_sample_is_inside_if_its_time_is(
    intervals: list[Interval], first: int, count: int
) -> None:
    """At 10 Hz sample n lies at n tenths of a second; ends are exclusive."""
    inside = indicator(stretches(intervals, 10.0), first, count)

    tenths = np.arange(first, first + count)
    expected = np.zeros(count, np.bool_)
    for one in intervals:
        end = np.inf if one.to_s is None else round(one.to_s * 10)
        expected |= (round(one.from_s * 10) <= tenths) & (tenths < end)
    assert inside.tolist() == expected.tolist()


@given(st.lists(INTERVALS, max_size=5))
def test_stretches_are_in_order_and_apart(intervals: list[Interval]) -> None:
    """Whoever walks along them never goes back."""
    found = stretches(intervals, 10.0)

    ends = [end for stretch in found for end in stretch]
    finite = [end for end in ends if end is not None]
    assert None not in ends[:-1]
    assert finite == sorted(set(finite))


def test_always_is_from_the_first_sample_without_end() -> None:
    """A fault without intervals never ends."""
    assert stretches(ALWAYS, 3200.0) == [(0, None)]


def test_a_bound_that_is_meant_to_lie_on_a_sample_lies_on_it() -> None:
    """0.07 s at 100 Hz is sample 7, though 0.07 * 100 is a little more."""
    assert Interval(0.07, 0.14).samples(100.0) == (7, 14)


def test_an_interval_that_ends_before_it_begins_is_refused() -> None:
    """The message shows both ends."""
    with pytest.raises(ConfigError, match="from_s is 5 and to_s 5; expected to_s above from_s"):
        Interval(5.0, 5.0)
