"""Suspect samples, kept until no window contains them any more."""

from __future__ import annotations

import numpy as np

from edge_runtime.pipeline.marks import Marks
from edge_runtime.quality import MASK, Quality

TIMES = np.array([10, 20, 30, 40, 50], np.int64)
QUALITY = np.array([0, 1, 0, 2, 0], MASK)


def marks_of(time_ns: np.ndarray, quality: np.ndarray) -> Marks:
    """Make marks of one block."""
    marks = Marks()
    marks.add(time_ns, quality)
    return marks


def test_a_window_has_the_bits_of_all_its_samples() -> None:
    """First and last sample included, those beside it not."""
    marks = marks_of(TIMES, QUALITY)

    found = marks.over(np.array([10, 20, 21, 40, 41]), np.array([19, 40, 39, 50, 60]))

    assert found is not None
    assert found.dtype == MASK
    assert found.tolist() == [0, Quality.SATURATED | Quality.FROZEN, 0, Quality.FROZEN, 0]


def test_nothing_suspect_is_none() -> None:
    """A block of windows beside the suspect samples has no masks at all."""
    marks = marks_of(TIMES, QUALITY)

    found = marks.over(np.array([25, 45]), np.array([35, 55]))

    assert found is None


def test_a_bit_that_nobody_knows_yet_is_kept() -> None:
    """A newer source may say what this version has no name for."""
    marks = marks_of(TIMES, QUALITY << 14)

    found = marks.over(TIMES[:1], TIMES[-1:])

    assert found is not None
    assert found.tolist() == [1 << 15 | 1 << 14]


def test_only_suspect_samples_are_remembered_and_only_while_needed() -> None:
    """What lies before the next window is forgotten."""
    marks = marks_of(TIMES, QUALITY)
    assert len(marks) == 2

    marks.forget_before(21)

    assert len(marks) == 1
    assert marks.along(TIMES[2:]).tolist() == [0, 2, 0]
