"""Which samples a sensor delivers at all, and which number each delivered one has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from edge_simulator.signals.blocks import BLOCK
from edge_simulator.signals.faults import Dropout, SensorFault, Unplug, lost_rows
from edge_simulator.signals.interval import Interval, Stretch, active, stretches

__all__ = ["Presence"]


class _Thinning(NamedTuple):
    """A dropout that leaves nothing: where it is active, and which samples it takes."""

    where: list[Stretch]
    lost: Callable[[int, int], np.ndarray]


class _Span(NamedTuple):
    """Samples of which all, some, or none are delivered; without end where ``last`` is None."""

    first: int
    last: int | None
    is_dark: bool
    is_thin: bool


class Presence:
    """Samples that are missing, told from the faults alone.

    Whole stretches are counted at once; where samples are lost one by one they are drawn
    and counted in blocks.

    Args:
        faults: As for `distort`.
        rate_hz: Samples a second.
        seed: As for `distort`.
    """

    def __init__(self, faults: Sequence[SensorFault], rate_hz: float, *, seed: int) -> None:
        self.unplugged = stretches(_intervals_of(faults, Unplug), rate_hz)
        thinned = [
            _Thinning(stretches(fault.active, rate_hz), lost_rows(fault, seed=seed, number=number))
            for number, fault in enumerate(faults)
            if isinstance(fault, Dropout) and fault.leaves == "missing"
        ]
        self._thinned = thinned
        self._spans = _spans(self.unplugged, [stretch for one in thinned for stretch in one.where])

    def mask(self, first: int, count: int) -> np.ndarray:
        """Return which of ``count`` samples from ``first`` on are delivered, shape (count,)."""
        present = np.ones(count, np.bool_)
        for begin, end, _ in active(self.unplugged, first, count):
            present[begin - first : end - first] = False
        for where, lost in self._thinned:
            for begin, end, _ in active(where, first, count):
                present[begin - first : end - first] &= ~lost(begin, end - begin)
        return present

    def following(self, first: int) -> int | None:
        """Return the first delivered sample from ``first`` on; None if there is none."""
        return self._nth(first, 0)

    def sample_of(self, index: int) -> int | None:
        """Return which sample is delivered as number ``index``, from 0; None if there is none."""
        return self._nth(0, index)

    def _nth(self, first: int, skip: int) -> int | None:
        """Return the delivered sample from ``first`` on before which ``skip`` others are."""
        for span in self._spans:
            begin = max(first, span.first)
            if span.is_dark or (span.last is not None and span.last <= begin):
                continue
            if span.is_thin:
                found, skip = self._found(begin, span.last, skip)
            else:
                found, skip = _counted(begin, span.last, skip)
            if found is not None:
                return found
        return None

    def _found(self, first: int, last: int | None, skip: int) -> tuple[int | None, int]:
        """Look sample by sample; see `_counted`."""
        while last is None or first < last:
            size = BLOCK if last is None else min(BLOCK, last - first)
            places = np.flatnonzero(self.mask(first, size))
            if skip < len(places):
                return first + int(places[skip]), 0
            first, skip = first + size, skip - len(places)
        return None, skip


def _counted(first: int, last: int | None, skip: int) -> tuple[int | None, int]:
    """Pass over ``skip`` samples of a part; return where that ends, or how many are left."""
    if last is None or first + skip < last:
        return first + skip, 0
    return None, skip - (last - first)


def _spans(dark: Sequence[Stretch], thin: Sequence[Stretch]) -> list[_Span]:
    """Cut all samples at the ends of all stretches."""
    ends = {0} | {end for stretch in (*dark, *thin) for end in stretch if end is not None}
    cuts: list[int | None] = [*sorted(ends), None]
    return [
        _Span(first, last, _covers(dark, first), _covers(thin, first))
        for first, last in itertools.pairwise(cuts)
        if first is not None
    ]


def _covers(where: Sequence[Stretch], sample: int) -> bool:
    return bool(active(where, sample, 1))


def _intervals_of(faults: Sequence[SensorFault], kind: type[SensorFault]) -> list[Interval]:
    return [one for fault in faults if isinstance(fault, kind) for one in fault.active]
