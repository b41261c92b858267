"""Statistics of tensors, gathered block by block, the same for any cut into blocks."""

from __future__ import annotations

import math

import numpy as np

from edge_converters.quantise.contracts import TensorStatistics
from edge_runtime.errors import ModelError

__all__ = ["Gathered"]

_BINS = 4096
_SHOWN_BINS = 64
_SHARES = (0.1, 1.0, 50.0, 99.0, 99.9)
_LEAST_RADIUS = 2.0**-126


class Gathered:
    """The values of one tensor as a histogram that grows with them.

    Bins are equal and cover [-R, R), R a power of two; when a value lies outside, R
    doubles and pairs of bins become one. So the counts are exact, and no order of the
    blocks can change them.

    Args:
        name: Of the tensor, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._radius = _LEAST_RADIUS
        self._counts = np.zeros(_BINS, np.int64)
        self._count = 0
        self._minimum, self._maximum = math.inf, -math.inf
        self._sum = self._squares = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take a block of any shape.

        Raises:
            ModelError: A value is not finite.
        """
        flat = values.ravel().astype(np.float64)
        if not flat.size:
            return
        self._check(flat)
        self._minimum = min(self._minimum, float(flat.min()))
        self._maximum = max(self._maximum, float(flat.max()))
        self._count += flat.size
        self._sum += float(flat.sum())
        self._squares += float(np.square(flat).sum())
        self._grow()
        width = 2 * self._radius / _BINS
        places = np.floor(flat / width).astype(np.int64) + _BINS // 2
        self._counts += np.bincount(places, minlength=_BINS)

    def statistics(self) -> TensorStatistics:
        """Return what was seen; at least one value must have been."""
        mean = self._sum / self._count
        first_edge, bin_width, shown = self._shown()
        return TensorStatistics(
            count=self._count,
            minimum=self._minimum,
            maximum=self._maximum,
            mean=mean,
            deviation=math.sqrt(max(0.0, self._squares / self._count - mean * mean)),
            first_edge=first_edge,
            bin_width=bin_width,
            histogram=tuple(shown),
            quantiles={f"{share:g}": self._quantile(share / 100) for share in _SHARES},
        )

    def _check(self, flat: np.ndarray) -> None:
        if not np.isfinite(flat).all():
            raise ModelError(
                f"{np.count_nonzero(~np.isfinite(flat))} of {flat.size} values are not finite",
                where=f"tensor {self._name!r}",
                expected="finite values in every tensor of the float model",
                remedy="Look for NaN in the calibration data, or for a division by zero.",
            )

    def _grow(self) -> None:
        while not (-self._radius <= self._minimum and self._maximum < self._radius):
            merged = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.zeros(_BINS, np.int64)
            self._counts[_BINS // 4 : 3 * _BINS // 4] = merged
            self._radius *= 2

    def _quantile(self, share: float) -> float:
        place = int(np.searchsorted(self._counts.cumsum(), share * self._count))
        middle = (place + 0.5 - _BINS / 2) * 2 * self._radius / _BINS
        return min(max(middle, self._minimum), self._maximum)

    def _shown(self) -> tuple[float, float, list[int]]:
        """Return the first edge, the width and the counts of few bins around the values."""
        if self._minimum == self._maximum:
            return self._minimum, 0.0, [self._count]
        width = 2 * self._radius / _BINS
        filled = np.flatnonzero(self._counts)
        first, last = int(filled[0]), int(filled[-1]) + 1
        each = -(-(last - first) // _SHOWN_BINS)
        counts = self._counts[first:last]
        shown = np.add.reduceat(counts, np.arange(0, len(counts), each))
        return (first - _BINS / 2) * width, each * width, shown.tolist()
