"""What every feature is made of: the call, the order of windows, and exact small sums."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ShapeError
from edge_runtime.spec import FeatureSpec

__all__ = ["Feature", "Order", "Pure", "Reals", "by_channel", "mean_of_rows", "misfit"]

Reals = NDArray[np.float64]


class Order(enum.Enum):
    """How the windows of one call lie in their stream.

    ``SEPARATE``: nothing is known. ``FRESH``: each follows the one before it by one
    hop. ``FOLLOWS``: so does the first one follow the last window of the call before.
    """

    SEPARATE = enum.auto()
    FRESH = enum.auto()
    FOLLOWS = enum.auto()


class Feature(Protocol):
    """One feature with its tables; used by one thread.

    Attributes:
        is_stateful: Whether answers depend on earlier windows.
        is_quiet: Whether nothing can overflow in it, whatever the samples are.
    """

    is_stateful: bool
    is_quiet: bool

    def __call__(self, windows: np.ndarray, order: Order, /) -> np.ndarray:
        """Return float32 (n, …) of windows (n, length, channels), any real dtype."""
        ...

    def fork(self) -> Feature:
        """Return one that shares the tables and remembers nothing."""
        ...


class Pure:
    """A feature that looks at each window by itself and keeps nothing.

    Args:
        function: Makes float32 (n, …) of float32 windows (n, length, channels).
        values_at_once: It gets so many samples at a time: what fits in the cache.
    """

    is_stateful = False
    is_quiet = False

    def __init__(
        self, function: Callable[[np.ndarray], np.ndarray], *, values_at_once: int = 1 << 14
    ) -> None:
        self._function = function
        self._values_at_once = values_at_once

    def __call__(self, windows: np.ndarray, _order: Order, /) -> np.ndarray:
        """Return the feature of every window; may be ``windows`` itself."""
        values = np.ascontiguousarray(windows, np.float32)
        if values.size <= self._values_at_once or len(values) == 1:
            return self._function(values)
        count = max(1, self._values_at_once * len(values) // values.size)
        parts = [
            self._function(values[first : first + count]) for first in range(0, len(values), count)
        ]
        return np.concatenate(parts)

    def fork(self) -> Feature:
        """Return this one."""
        return self


def misfit(spec: FeatureSpec, what: str, expected: str) -> ShapeError:
    """Return the error for a feature that does not fit its window or rate."""
    return ShapeError(
        what,
        where=f"feature {spec.__struct_config__.tag}",
        expected=expected,
        remedy="Change the feature or the window in the model's bundle.yaml.",
    )


def by_channel(windows: np.ndarray) -> Reals:
    """Return (n, channels, length) of (n, length, channels), float64, C-contiguous."""
    return np.ascontiguousarray(windows.transpose(0, 2, 1), dtype=np.float64)


def mean_of_rows(values: Reals) -> Reals:
    """Average over the last axis of a C-contiguous float64 array."""
    mean: Reals = np.add.reduce(values, axis=-1)
    mean /= values.shape[-1]
    return mean
