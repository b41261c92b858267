"""What the answers were worth: errors by year and month, with block-bootstrap intervals.

Pure functions over arrays; `judge` takes rows from the store, this module
never does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np

__all__ = [
    "BLOCK_ROWS",
    "DAY_ROWS",
    "MONTH_ROWS",
    "VARIANTS",
    "Answers",
    "Interval",
    "Month",
    "bootstrap_mean",
    "bootstrap_ratio",
    "errors_by_month",
    "errors_by_year",
    "ratios_by_year",
]

VARIANTS = ("edge_only", "cloud_only", "ridge_only", "hybrid")
DAY_ROWS = 24
MONTH_ROWS = 30 * DAY_ROWS
BLOCK_ROWS = 7 * DAY_ROWS
"""Errors of one week stay together in a resample: they are alike, not independent."""

_SHORTEST_MONTH_ROWS = 10 * DAY_ROWS
_DRAWS = 2000
_SEED = 20130101


class Answers(msgspec.Struct, frozen=True, eq=False):
    """Every variant's answer for every replayed row.

    Attributes:
        row: 0-based data row of the CSV, shape (n,), rising by one.
        year: Shape (n,), as the file says.
        truth: Measured value, shape (n,), mg/m3.
        variants: Answers by variant, each shape (n,), mg/m3.
        effective_id: Base and layers that were live, shape (n,), text.
    """

    row: np.ndarray
    year: np.ndarray
    truth: np.ndarray
    variants: Mapping[str, np.ndarray]
    effective_id: np.ndarray

    def errors(self, variant: str) -> np.ndarray:
        """Return the absolute errors of one variant, shape (n,), mg/m3."""
        errors: np.ndarray = np.abs(self.variants[variant] - self.truth)
        return errors

    def years(self) -> tuple[int, ...]:
        """Return the years that occur, in order."""
        return tuple(int(year) for year in np.unique(self.year))


class Interval(msgspec.Struct, frozen=True):
    """A figure with its 95 % block-bootstrap interval."""

    value: float
    low: float
    high: float


class Month(msgspec.Struct, frozen=True):
    """Mean absolute errors of 30 days of one year.

    Attributes:
        year: As the file says.
        number: Counts from 1 in each year.
        first_row: 0-based data row it begins with.
        errors: By variant, mg/m3.
    """

    year: int
    number: int
    first_row: int
    errors: dict[str, float]


def errors_by_year(answers: Answers) -> dict[str, dict[str, Interval]]:
    """Return the mean absolute error by variant and year, with intervals."""
    return {
        variant: {
            str(year): bootstrap_mean(answers.errors(variant)[answers.year == year])
            for year in answers.years()
        }
        for variant in answers.variants
    }


def ratios_by_year(answers: Answers, variant: str, other: str) -> dict[str, Interval]:
    """Return error of ``variant`` over error of ``other`` by year, resampled together."""
    return {
        str(year): bootstrap_ratio(
            answers.errors(variant)[answers.year == year],
            answers.errors(other)[answers.year == year],
        )
        for year in answers.years()
    }


def errors_by_month(answers: Answers) -> list[Month]:
    """Return errors per 30 days; a rest shorter than ten days joins the month before."""
    return [
        Month(
            year=year,
            number=number,
            first_row=int(answers.row[rows][0]),
            errors={name: float(answers.errors(name)[rows].mean()) for name in answers.variants},
        )
        for year in answers.years()
        for number, rows in enumerate(_months(np.flatnonzero(answers.year == year)), start=1)
    ]


def bootstrap_mean(errors: np.ndarray) -> Interval:
    """Return the mean of ``errors``, shape (n,), and its interval."""
    means = _resampled_sums(errors) / len(errors)
    return _interval(float(errors.mean()), means)


def bootstrap_ratio(errors: np.ndarray, others: np.ndarray) -> Interval:
    """Return mean over mean of two paired error series and its interval.

    Both are resampled with the same blocks, so that what is common to them
    (hard weeks) does not widen the interval.
    """
    ratios = _resampled_sums(errors) / _resampled_sums(others)
    return _interval(float(errors.mean() / others.mean()), ratios)


def _resampled_sums(errors: np.ndarray) -> np.ndarray:
    """Sum circular moving-block resamples, shape (draws,).

    Source: Politis and Romano (1992), circular block bootstrap. Every resample
    has the original length: the last block is cut.
    """
    n = len(errors)
    block = min(BLOCK_ROWS, n)
    whole, rest = divmod(n, block)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([errors, errors[:block]]))])
    starts = np.random.default_rng(_SEED).integers(0, n, size=(_DRAWS, whole + 1))
    blocks = sums[starts[:, :whole] + block] - sums[starts[:, :whole]]
    tail = sums[starts[:, whole] + rest] - sums[starts[:, whole]]
    total: np.ndarray = blocks.sum(axis=1) + tail
    return total


def _interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _months(rows: np.ndarray) -> Iterator[np.ndarray]:
    whole, rest = divmod(len(rows), MONTH_ROWS)
    count = max(1, whole + (rest >= _SHORTEST_MONTH_ROWS))
    for number in range(count):
        last = None if number == count - 1 else (number + 1) * MONTH_ROWS
        yield rows[number * MONTH_ROWS : last]
