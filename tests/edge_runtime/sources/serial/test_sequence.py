"""Lost messages, told by their numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sources.live import Health
from edge_runtime.sources.serial.config import SequenceField
from edge_runtime.sources.serial.sequence import SequenceCheck


def _check(modulus: int = 256, step: float = 1.0) -> tuple[SequenceCheck, Health]:
    health = Health()
    field = SequenceField(field="n", modulus=modulus, step=step)
    return SequenceCheck(field, 100.0, health), health


@given(
    start=st.integers(0, 255),
    gaps=st.lists(st.integers(0, 100), min_size=1, max_size=60),
    cut=st.integers(1, 60),
)
def test_gaps_are_told_across_wraps_and_blocks(start: int, gaps: list[int], cut: int) -> None:
    """A counter of eight bits tells up to half its range."""
    numbers = (start + np.cumsum([gap + 1 for gap in gaps])) % 256
    check, health = _check()
    blocks = [numbers[first : first + cut] for first in range(0, len(numbers), cut)]

    told = [check.check(block.astype(float)) for block in blocks]

    assert all(is_new.all() for is_new, _ in told)
    assert np.concatenate([lost for _, lost in told]).tolist() == [0, *gaps[1:]]
    assert health.report().faults == {}


def test_repeated_and_unnumbered_messages_are_left_out() -> None:
    """A message sent twice is one sample; one without a valid number cannot be placed."""
    check, health = _check()

    is_new, lost = check.check(np.array([4.0, 4.0, np.nan, 5.0, 999.0, 7.0]))

    assert is_new.tolist() == [True, False, False, True, False, True]
    assert lost.tolist() == [0, 0, 1]
    assert health.report().faults == {"unparsable": 2, "repeated": 1}


def test_a_sensor_that_starts_over_has_lost_nothing_known() -> None:
    """A step back is no gap of nearly a whole turn."""
    check, health = _check(modulus=65536)
    check.check(np.array([5000.0]))

    _, lost = check.check(np.array([0.0, 1.0]))

    assert lost.tolist() == [0, 0]
    assert health.report().faults == {"restarted": 1}


def test_a_clock_that_jitters_tells_whole_samples() -> None:
    """Milliseconds at 100 Hz: a step is ten, give or take."""
    check, _ = _check(modulus=1 << 32, step=10.0)

    _, lost = check.check(np.array([2.0**32 - 7, 4.0, 13.0, 34.0, 43.0]))

    assert lost.tolist() == [0, 0, 0, 1, 0]


def test_no_messages_are_no_news() -> None:
    """An empty block changes nothing."""
    check, _ = _check()

    for numbers in ([], [9.0], [], [10.0]):
        _, lost = check.check(np.array(numbers))
        assert lost.sum() == 0
