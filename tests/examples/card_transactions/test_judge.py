"""The figures are the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from examples.card_transactions.judge import (
    FALSE_ALARM_SHARE,
    Interval,
    Verdict,
    average_precision,
    threshold_at,
)

rows = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60)


@given(rows)
def test_average_precision_is_the_sum_over_thresholds(pairs: list[tuple[int, bool]]) -> None:
    """Each threshold adds its precision times the recall it gains; ties come together."""
    score = np.array([value for value, _ in pairs], float)
    fraud = np.array([truth for _, truth in pairs])
    assume(fraud.any())
    expected, before = 0.0, 0.0
    for limit in sorted(set(score), reverse=True):
        said = score >= limit
        recall = (said & fraud).sum() / fraud.sum()
        expected += (recall - before) * fraud[said].mean()
        before = recall

    assert average_precision(score, fraud) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=500))
def test_a_threshold_keeps_the_false_alarms(honest: list[float]) -> None:
    """Never more than the allowed share of honest payments is asked about, with ties too."""
    score = np.array([*honest, 1.0])
    fraud = np.arange(len(score)) == len(honest)

    alarms = score[~fraud] >= threshold_at(score, fraud)

    assert alarms.mean() <= FALSE_ALARM_SHARE


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=31))
def test_an_interval_is_students(values: list[float]) -> None:
    """Mean and half width are those of the t distribution."""
    interval = Interval.of(values)

    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    assert interval.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert interval.half == pytest.approx(half, rel=1e-3, abs=1e-9)


def test_false_alarms_cost_what_they_cost() -> None:
    """Money saved is the fraud stopped, less five euros for each honest customer asked."""
    fraud = np.array([True, True, False, False])
    amount = np.array([100.0, 300.0, 20.0, 20.0])
    alarm = np.array([False, True, True, False])

    verdict = Verdict.of(np.array([0.1, 0.9, 0.8, 0.2]), fraud, amount, alarm)

    assert verdict.saved == pytest.approx((300 - 5) / 400)
    assert verdict.false_alarms == 0.5
    assert verdict.recall == 0.5
