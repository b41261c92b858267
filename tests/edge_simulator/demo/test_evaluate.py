import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_simulator.demo.evaluate import (
    MONTH_ROWS,
    Answers,
    bootstrap_mean,
    bootstrap_ratio,
    errors_by_month,
    errors_by_year,
    ratios_by_year,
)


def _answers(year: np.ndarray, **errors: np.ndarray) -> Answers:
    truth = np.full(len(year), 60.0)
    return Answers(
        row=np.arange(100, 100 + len(year)),
        year=year,
        truth=truth,
        variants={name: truth + error for name, error in errors.items()},
        effective_id=np.full(len(year), "0" * 16),
    )


def test_errors_are_means_of_absolute_differences_by_year() -> None:
    """A year's error is the mean absolute error of its own rows."""
    year = np.repeat([2013, 2014], 200)
    error = np.concatenate([np.full(200, -2.0), np.full(200, 3.0)])

    found = errors_by_year(_answers(year, hybrid=error))

    assert {name: interval.value for name, interval in found["hybrid"].items()} == {
        "2013": 2.0,
        "2014": 3.0,
    }


def test_the_interval_covers_the_truth_of_correlated_errors() -> None:
    """Of many series with daily ups and downs, about 95 % of the intervals hold the mean."""
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        days = np.repeat(random.gamma(4.0, 1.0, 300), 24)
        interval = bootstrap_mean(days + random.normal(0, 0.1, len(days)))
        covered += interval.low <= 4.0 <= interval.high

    assert covered >= 53


def test_weeks_that_stay_together_widen_the_interval() -> None:
    """Correlated errors say less than as many independent ones."""
    random = np.random.default_rng(1)
    weekly = np.repeat(random.gamma(4.0, 1.0, 40), 168)
    shuffled = random.permutation(weekly)

    together, apart = bootstrap_mean(weekly), bootstrap_mean(shuffled)

    assert together.high - together.low > 5 * (apart.high - apart.low)


@settings(max_examples=25)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_an_interval_lies_within_the_errors(length: int, seed: int) -> None:
    """For any length, short ones too, an interval holds its value and stays in range."""
    errors = np.random.default_rng(seed).random(length) + 0.1

    interval = bootstrap_mean(errors)

    assert errors.min() - 1e-9 <= interval.low <= interval.high <= errors.max() + 1e-9
    assert interval.value == pytest.approx(errors.mean())


def test_a_ratio_of_paired_errors_is_sharper_than_its_parts() -> None:
    """What is hard for both does not blur the comparison."""
    random = np.random.default_rng(3)
    other = np.repeat(random.gamma(2.0, 2.0, 50), 168)

    interval = bootstrap_ratio(0.8 * other, other)

    assert interval.value == pytest.approx(0.8)
    assert interval.high - interval.low < 1e-9


def test_ratios_compare_within_a_year() -> None:
    """Each year has its own ratio."""
    year = np.repeat([2013, 2014], 300)
    other = np.full(600, 2.0)
    hybrid = np.concatenate([np.full(300, 1.0), np.full(300, 1.5)])

    found = ratios_by_year(_answers(year, hybrid=hybrid, ridge_only=other), "hybrid", "ridge_only")

    assert found["2013"].value == pytest.approx(0.5)
    assert found["2014"].value == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("rows", "months"),
    [(10, 1), (MONTH_ROWS, 1), (MONTH_ROWS + 239, 1), (MONTH_ROWS + 240, 2), (7152, 10)],
)
def test_a_short_rest_joins_the_month_before(rows: int, months: int) -> None:
    """Every row belongs to one month, and no month is shorter than ten days unless alone."""
    found = errors_by_month(_answers(np.full(rows, 2013), hybrid=np.ones(rows)))

    assert len(found) == months
    assert [month.first_row for month in found] == [100 + MONTH_ROWS * n for n in range(months)]
