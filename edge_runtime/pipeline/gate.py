"""What stands between a value and a start or an end: k-of-n, refractory time, reject option."""

from __future__ import annotations

import bisect
from collections import deque
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.spec import Limit, Reject

__all__ = ["Gate", "Mark", "uncertain_of"]

_NS_PER_S = 1e9
Ages = Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=1024)]


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a `Gate` must remember between two windows.

    Attributes:
        hits: How many windows ago it was hit, the longest ago first.
        ended_ns: When the label last ended.
        withheld: Windows whose start or end was withheld, since the stream began.
    """

    hits: Ages = ()
    ended_ns: int | None = None
    withheld: int = 0


class Gate:
    """Decides about one label by more than ``on`` and ``off``; used by one thread.

    A window in the reject band neither starts nor ends anything, and is no hit of
    k-of-n. Hits from before the label last ended do not count.

    Args:
        limit: The label's.
        mark: Where it goes on.
        seen: Number of the next window.

    Attributes:
        withheld: Windows in the reject band that had reached ``on`` or fallen below
            ``off`` otherwise, since the stream began.
    """

    def __init__(self, limit: Limit, mark: Mark, seen: int) -> None:
        self._hits = deque((seen - age for age in mark.hits), limit.k_of_n[0])
        self._ended_ns = mark.ended_ns
        self.withheld = mark.withheld
        self._on, self._off = limit.on, limit.off
        self._k, self._n = limit.k_of_n
        self._refractory_ns = round(limit.refractory_s * _NS_PER_S)
        self._reject = limit.reject

    def crosses(self, value: float, time_ns: int, number: int, *, has_started: bool) -> bool:
        """Tell whether the label starts or ends with one window.

        Args:
            value: Its smoothed value.
            time_ns: When it ends.
            number: It counts windows up.
            has_started: Whether the label has started.
        """
        if not (value < self._off if has_started else value >= self._on):
            return False
        reject = self._reject
        if reject is not None and reject.low <= value < reject.high:
            self.withheld += 1
            return False
        return self._ends(time_ns) if has_started else self._starts(time_ns, number)

    def crossings(
        self, values: np.ndarray, end_ns: np.ndarray, first: int, *, has_started: bool
    ) -> list[tuple[int, bool]]:
        """Return the rows of many windows where the label starts or ends, and which it is.

        The same as `crosses` for each; it jumps among the rows that could be one.

        Args:
            values: Smoothed, shape (n,).
            end_ns: End of each window, shape (n,).
            first: Number of the first window.
            has_started: Whether the label has started.
        """
        over, below = values >= self._on, values < self._off
        uncertain = uncertain_of(values, self._reject)
        if uncertain is None:
            return self._jumps(over, below, end_ns, first, has_started=has_started)
        sure = ~uncertain
        crossed = self._jumps(over & sure, below & sure, end_ns, first, has_started=has_started)
        flips = np.zeros(len(values), np.int64)
        flips[[row for row, _ in crossed]] = 1
        started = (np.cumsum(flips) + has_started) % 2 == 1
        held = np.where(started, below, over) & uncertain
        self.withheld += int(np.count_nonzero(held))
        return crossed

    def _jumps(
        self,
        over: np.ndarray,
        below: np.ndarray,
        end_ns: np.ndarray,
        first: int,
        *,
        has_started: bool,
    ) -> list[tuple[int, bool]]:
        hits, ends = np.flatnonzero(over).tolist(), np.flatnonzero(below).tolist()
        crossed: list[tuple[int, bool]] = []
        row = 0
        while True:
            rows = ends if has_started else hits
            for place in range(bisect.bisect_left(rows, row), len(rows)):
                row = rows[place]
                time_ns = end_ns.item(row)
                if self._ends(time_ns) if has_started else self._starts(time_ns, first + row):
                    break
            else:
                return crossed
            has_started = not has_started
            crossed.append((row, has_started))

    def _starts(self, time_ns: int, number: int) -> bool:
        """Take a hit, and tell whether the label starts with it."""
        hits = self._hits
        hits.append(number)
        if len(hits) < self._k or number - hits[0] >= self._n:
            return False
        if self._ended_ns is not None and time_ns - self._ended_ns < self._refractory_ns:
            return False
        hits.clear()
        return True

    def _ends(self, time_ns: int) -> bool:
        self._ended_ns = time_ns
        return True

    def mark(self, seen: int) -> Mark:
        """Return what must be kept, if ``seen`` is the number of the next window."""
        recent = [seen - number for number in self._hits if seen - number < self._n]
        return Mark(tuple(recent), self._ended_ns, self.withheld)


def uncertain_of(values: np.ndarray, reject: Reject | None) -> np.ndarray | None:
    """Return which values lie in the reject band; None where there is no band."""
    if reject is None:
        return None
    inside: np.ndarray = (values >= reject.low) & (values < reject.high)
    return inside
