"""Intervals of rates and shares, against scipy's and against what they promise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edge_runtime.intervals import highest_rate, rate_bounds, share_bounds

HOURS = st.floats(0.01, 1e4)


@given(count=st.integers(0, 300), hours=HOURS, confidence=st.floats(0.5, 0.9999))
def test_the_interval_of_a_rate_is_that_of_garwood(
    count: int, hours: float, confidence: float
) -> None:
    """Half of a chi-squared quantile, over the time."""
    tail = (1 - confidence) / 2

    low, high = rate_bounds(count, hours, confidence)

    expected = stats.chi2.ppf(tail, 2 * count) / 2 / hours if count else 0.0
    assert low == pytest.approx(expected, rel=1e-6)
    assert high == pytest.approx(stats.chi2.isf(tail, 2 * count + 2) / 2 / hours, rel=1e-6)


@given(hours=HOURS, risk=st.floats(1e-6, 0.5))
def test_without_an_event_time_alone_decides(hours: float, risk: float) -> None:
    """The rule of three: -ln(risk) over the time."""
    assert highest_rate(0, hours, risk) == pytest.approx(-math.log(risk) / hours, rel=1e-9)


@given(of=st.integers(1, 2000), share=st.floats(0, 1))
def test_the_interval_of_a_share_is_that_of_wilson(of: int, share: float) -> None:
    """As scipy computes it."""
    count = round(share * of)

    found = share_bounds(count, of)

    expected = stats.binomtest(count, of).proportion_ci(method="wilson")
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_of_nothing_may_be_anything() -> None:
    """No events tell nothing."""
    assert share_bounds(0, 0) == (0.0, 1.0)
