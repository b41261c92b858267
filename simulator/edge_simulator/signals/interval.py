"""Stretches of event time, in seconds since the first sample of a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_simulator.signals.part import Part

__all__ = ["ALWAYS", "Interval", "Stretch", "active", "indicator", "stretches"]

# A bound that was meant to lie on a sample must not miss it by a rounding.
_ROUNDING = 1e-6

Stretch = tuple[int, int | None]
"""First sample, and the one to stop before; None never stops."""


class Interval(Part, frozen=True):
    """From an event time, inclusive, to another, exclusive.

    Attributes:
        from_s: Seconds since the first sample.
        to_s: As ``from_s``; None never ends.
    """

    from_s: Annotated[float, Meta(ge=0)] = 0.0
    to_s: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.to_s is not None and self.to_s <= self.from_s:
            raise ConfigError(
                f"from_s is {self.from_s:g} and to_s {self.to_s:g}",
                expected="to_s above from_s",
                remedy="Leave to_s out where there is no end.",
            )

    def samples(self, rate_hz: float) -> Stretch:
        """Return which samples lie in it."""
        last = None if self.to_s is None else _first_at(self.to_s, rate_hz)
        return _first_at(self.from_s, rate_hz), last


ALWAYS = (Interval(),)


def stretches(intervals: Sequence[Interval], rate_hz: float) -> list[Stretch]:
    """Return the samples of all intervals, in order; those that touch become one."""
    merged: list[Stretch] = []
    for first, last in sorted((one.samples(rate_hz) for one in intervals), key=_order):
        if merged and _reaches(merged[-1], first):
            merged[-1] = (merged[-1][0], _later(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def active(where: Sequence[Stretch], first: int, count: int) -> list[tuple[int, int, int]]:
    """Return the parts of the stretches inside ``count`` samples from ``first`` on.

    Returns:
        For each the first sample, the one to stop before, and where the stretch began.
    """
    end = first + count
    parts = [(max(first, a), end if b is None else min(end, b), a) for a, b in where]
    return [part for part in parts if part[0] < part[1]]


def indicator(where: Sequence[Stretch], first: int, count: int) -> np.ndarray:
    """Return 1 inside the stretches and 0 outside, shape (count,), float32."""
    inside = np.zeros(count, np.float32)
    for begin, end, _ in active(where, first, count):
        inside[begin - first : end - first] = 1
    return inside


def _order(stretch: Stretch) -> int:
    return stretch[0]


def _reaches(stretch: Stretch, first: int) -> bool:
    return stretch[1] is None or first <= stretch[1]


def _later(last: int | None, other: int | None) -> int | None:
    return None if last is None or other is None else max(last, other)


def _first_at(time_s: float, rate_hz: float) -> int:
    return math.ceil(time_s * rate_hz - _ROUNDING)
