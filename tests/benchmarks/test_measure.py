"""Figures of interleaved rounds: every side gets the same conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


def test_variants_take_turns_in_both_directions(load: Load) -> None:
    """After a call of each to warm up, every other round goes backwards."""
    measure = load("measure")
    calls: list[str] = []

    timing = measure.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=4, calls=1
    )

    assert "".join(calls) == "ab" + "abbaabba"
    assert len(timing["a"].samples_us) == 4
    assert timing["a"].kept + timing["a"].dropped == 4


def test_a_slow_stretch_does_not_move_the_ratio(load: Load) -> None:
    """Half of the rounds are twice as slow for all sides: each round still has the same ratio."""
    measure = load("measure")
    ours, theirs, bare = (
        [value * pace for pace in (1, 2, 1, 2, 2)] for value in (30.0, 20.0, 10.0)
    )

    assert measure.median_ratio(ours, theirs, bare) == pytest.approx(2.0)
    assert measure.median_ratio(ours, theirs) == pytest.approx(1.5)


def test_rounds_with_a_dropped_sample_do_not_count(load: Load) -> None:
    """Only rounds that all sides finished undisturbed are compared."""
    measure = load("measure")

    assert measure.median_ratio([math.nan, 3.0, 9.0], [1.0, 1.0, math.nan]) == 3.0
