"""Smoothing: what becomes of a label's values before thresholds see them.

However the windows come in, one by one or many at once, the same operations are
done in the same order, so that the results are equal to the last bit.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.spec import Smoothing

__all__ = ["Smoother", "smoother_of"]

_NS_PER_S = 1e9


class Smoother(Protocol):
    """Smooths the values of one stream; used by one thread."""

    def smooth(self, values: np.ndarray, end_ns: np.ndarray, /) -> tuple[np.ndarray, int]:
        """Return the smoothed values, and the row of the first of them.

        Args:
            values: Of the next windows, shape (n, labels), float64.
            end_ns: End of each window, shape (n,), int64.

        Returns:
            Shape (n - first, labels), float64, and ``first``, at most n: nothing is
            smoothed before there are enough values.
        """
        ...

    def state(self) -> tuple[bytes, int | None]:
        """Return rows of float64 values, oldest first, and the time of the last."""
        ...

    def restore(self, history: bytes, time_ns: int | None, /) -> None:
        """Go on from a `state`.

        Raises:
            ModelError: It is of other labels or another smoothing.
        """
        ...


def smoother_of(smoothing: Smoothing, labels: int) -> Smoother | None:
    """Return what smooths values of so many labels; None leaves them as they are."""
    if smoothing.kind == "exponential":
        return _Exponential(smoothing, labels)
    if smoothing.windows == 1:
        return None
    return _Sliding(smoothing.windows, labels, _MEAN if smoothing.kind == "mean" else _MEDIAN)


class _Statistic(NamedTuple):
    """One number of the last k values.

    Attributes:
        of_one: Of k values, oldest first, in plain floats.
        of_many: Of rows (m + k - 1, labels) and k: m rows, the same to the last bit.
    """

    of_one: Callable[[Sequence[float]], float]
    of_many: Callable[[np.ndarray, int], np.ndarray]


class _Sliding:
    """A statistic of each label's last ``count`` values."""

    def __init__(self, count: int, labels: int, statistic: _Statistic) -> None:
        self._count = count
        self._labels = labels
        self._of_one, self._of_many = statistic
        self._history: list[list[float]] = []
        self._nothing = np.empty((0, labels))

    def smooth(self, values: np.ndarray, _end_ns: np.ndarray) -> tuple[np.ndarray, int]:
        if len(values) == 1:
            return self._smoothed_one(*values.tolist())
        known = np.concatenate((self._rows(), values))
        count = max(0, len(known) - self._count + 1)
        self._history = known[count:].tolist()
        smooth = self._of_many(known, self._count) if count else self._nothing
        return smooth, len(values) - count

    def _smoothed_one(self, value: list[float]) -> tuple[np.ndarray, int]:
        known = [*self._history, value]
        if len(known) < self._count:
            self._history = known
            return self._nothing, 1
        self._history = known[1:]
        return np.array([[self._of_one(column) for column in zip(*known, strict=True)]]), 0

    def _rows(self) -> np.ndarray:
        return np.array(self._history, np.float64).reshape(-1, self._labels)

    def state(self) -> tuple[bytes, int | None]:
        return self._rows().tobytes(), None

    def restore(self, history: bytes, _time_ns: int | None) -> None:
        self._history = _rows_of(history, self._labels, self._count - 1)


def _mean_of_one(values: Sequence[float]) -> float:
    # Not by sum(), which rounds otherwise than adding one by one from Python 3.12 on.
    total: float = functools.reduce(operator.add, values)
    return total / len(values)


def _mean_of_many(known: np.ndarray, count: int) -> np.ndarray:
    """Add each row's own k values, oldest first.

    A running sum would depend on how the windows came in.
    """
    rows = len(known) - count + 1
    total = known[:rows].copy()
    for late in range(1, count):
        total += known[late : late + rows]
    total /= count
    return total


def _median_of_one(values: Sequence[float]) -> float:
    if any(map(math.isnan, values)):
        return math.nan
    ordered, middle = sorted(values), len(values) // 2
    upper = ordered[middle]
    median = upper if len(values) % 2 else (ordered[middle - 1] + upper) / 2
    # Where 0.0 and -0.0 stand side by side, sorting may put either of them first.
    return median + 0.0


def _median_of_many(known: np.ndarray, count: int) -> np.ndarray:
    views = np.lib.stride_tricks.sliding_window_view(known, count, axis=0)
    ordered, middle = np.sort(views, axis=-1), count // 2
    median = ordered[..., middle].copy()
    if count % 2 == 0:
        median += ordered[..., middle - 1]
        median /= 2
    median += 0.0
    median[np.isnan(ordered[..., -1])] = np.nan  # not a number is sorted last
    return median


_MEAN = _Statistic(_mean_of_one, _mean_of_many)
_MEDIAN = _Statistic(_median_of_one, _median_of_many)


class _Exponential:
    """Moves a share of the way to each new value; the first one counts fully.

    ``y += a (x - y)``, in plain floats, one window after the other: the recursion
    has one order, whatever comes in at once. With a half-life h, ``a = 1 - 2^(-dt /
    h)``. Source: Brown 1963; for uneven times Wright 1986, and Zumbach and Müller
    2001. A value that is not finite gives one that is not a number, and moves nothing.
    """

    def __init__(self, smoothing: Smoothing, labels: int) -> None:
        self._alpha = smoothing.alpha
        self._half_life_ns = (smoothing.half_life_s or 0.0) * _NS_PER_S
        self._labels = labels
        self._level = [math.nan] * labels
        self._time_ns: int | None = None

    def smooth(self, values: np.ndarray, end_ns: np.ndarray) -> tuple[np.ndarray, int]:
        times = zip(values.tolist(), end_ns.tolist(), strict=True)
        rows = [self._next(row, time_ns) for row, time_ns in times]
        return np.array(rows, np.float64).reshape(-1, self._labels), 0

    def _next(self, values: list[float], time_ns: int) -> list[float]:
        share = self._share(time_ns)
        self._time_ns = time_ns
        return [self._moved(column, value, share) for column, value in enumerate(values)]

    def _share(self, time_ns: int) -> float:
        if self._alpha is not None:
            return self._alpha
        passed_ns = time_ns - (time_ns if self._time_ns is None else self._time_ns)
        return 1.0 - math.exp2(max(0, passed_ns) / -self._half_life_ns)

    def _moved(self, column: int, value: float, share: float) -> float:
        if not math.isfinite(value):
            return math.nan
        before = self._level[column]
        level = value if math.isnan(before) else before + share * (value - before)
        self._level[column] = level
        return level

    def state(self) -> tuple[bytes, int | None]:
        if self._time_ns is None:
            return b"", None
        return np.array(self._level).tobytes(), self._time_ns

    def restore(self, history: bytes, time_ns: int | None) -> None:
        rows = _rows_of(history, self._labels, 1)
        if len(rows) != (time_ns is not None):
            raise _unfit(history, f"a time with the level of {self._labels} labels")
        self._level = rows[0] if rows else [math.nan] * self._labels
        self._time_ns = time_ns


def _rows_of(history: bytes, labels: int, most: int) -> list[list[float]]:
    rows, rest = divmod(len(history), labels * 8)
    if rest or rows > most:
        raise _unfit(history, f"at most {most} values of {labels} labels")
    found: list[list[float]] = np.frombuffer(history).reshape(rows, labels).tolist()
    return found


def _unfit(history: bytes, expected: str) -> ModelError:
    return ModelError(
        f"the snapshot has {len(history)} bytes of history",
        expected=expected,
        remedy="Start without the snapshot; labels that have started will not end.",
    )
