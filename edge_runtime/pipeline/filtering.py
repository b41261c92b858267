"""Filters between frame and window: whole blocks in, the rest waits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_runtime.pipeline.filters import StreamFilter
from edge_runtime.spec import FilterSpec, StreamSpec, WindowSpec

__all__ = ["Filtering", "filter_block"]

_LONGEST_BLOCK = 128


def filter_block(window: WindowSpec) -> int:
    """Return how many samples a filter takes at once so that it delays no window.

    Every window ends ``length + k * hop`` samples after the start of its stretch:
    at the end of a block, if the block divides both.
    """
    whole = math.gcd(window.length, window.hop)
    highest = min(whole, _LONGEST_BLOCK)
    return next(size for size in range(highest, 0, -1) if whole % size == 0)


class Filtering:
    """Feeds a filter with whole blocks and keeps the rows that do not fill one.

    In place of a value that is not finite the filter gets the channel's last one,
    and that row comes out as NaN.

    Args:
        specs: The filters.
        window: Decides the block.
        stream: Channels and rate.

    Attributes:
        specs: As given.
        rows: What waits, shape (n, channels), float32.
        times: Its times, shape (n,), int64.

    Raises:
        ConfigError: A filter does not fit the rate.
    """

    def __init__(self, specs: Sequence[FilterSpec], window: WindowSpec, stream: StreamSpec) -> None:
        self.specs = tuple(specs)
        self._block = filter_block(window)
        self._channels = len(stream.channels)
        self._filter = StreamFilter(
            specs, channels=self._channels, rate_hz=stream.rate_hz, block=self._block
        )
        self.reset()

    def reset(self) -> None:
        """Forget all samples: a stretch begins."""
        self._filter.reset()
        self.rows = np.empty((0, self._channels), np.float32)
        self.times = np.empty(0, np.int64)
        self._held = np.zeros(self._channels, np.float32)

    def __len__(self) -> int:
        """Return how many rows wait."""
        return len(self.rows)

    def feed(self, samples: np.ndarray, time_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take rows and return those that are done, with their times.

        Args:
            samples: Shape (n, channels), any real dtype.
            time_ns: Shape (n,), int64.
        """
        rows = np.concatenate((self.rows, samples), dtype=np.float32, casting="unsafe")
        times = np.concatenate((self.times, time_ns))
        whole = len(rows) - len(rows) % self._block
        self.rows, self.times = rows[whole:], times[whole:]
        if not whole:
            return rows[:0], times[:0]
        return self._filtered(rows[:whole]), times[:whole]

    def _filtered(self, rows: np.ndarray) -> np.ndarray:
        is_finite = np.isfinite(rows)
        if is_finite.all():
            self._held = rows[-1]
            return self._filter(rows)
        known = np.vstack((self._held[None], rows))
        last = np.arange(1, len(known))[:, None] * is_finite
        np.maximum.accumulate(last, axis=0, out=last)
        filled = np.take_along_axis(known, last, axis=0)
        self._held = filled[-1]
        filtered = self._filter(filled)
        filtered[~is_finite.all(axis=1)] = np.nan
        return filtered

    def state(self) -> bytes:
        """Return what the filter remembers; the waiting rows are the caller's to keep."""
        return self._held.tobytes() + self._filter.state()

    def restore(self, state: bytes, rows: np.ndarray, times: np.ndarray) -> None:
        """Go on from `state`'s bytes and the rows that waited.

        Raises:
            ModelError: The filter's part does not fit.
        """
        size = self._held.nbytes
        self._filter.restore(state[size:])
        self._held = np.frombuffer(state[:size].ljust(size, b"\0"), np.float32)
        self.rows, self.times = rows, times
