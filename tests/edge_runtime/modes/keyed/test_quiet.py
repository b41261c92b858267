"""A device that falls silent is told of the time that passes, until nothing of it waits."""

from __future__ import annotations

from edge_runtime.modes.keyed.quiet import Quiet
from edge_runtime.testing import FakeClock


def test_each_is_told_after_its_own_silence_and_again_until_it_settles() -> None:
    """Ten seconds each; after 25 nothing waits any more."""
    clock = FakeClock()
    quiet = Quiet(10.0, 25.0, clock)
    told = []
    quiet.note("a")
    clock.advance(4)
    quiet.note("b")

    for seconds in (6, 4, 6, 4, 6, 4, 60):
        clock.advance(seconds)
        told += list(quiet.due())

    assert told == [("a", 10), ("b", 10), ("a", 20), ("b", 20), ("a", 30), ("b", 30)]


def test_samples_begin_it_anew() -> None:
    """Who is heard of is not silent."""
    clock = FakeClock()
    quiet = Quiet(10.0, 5.0, clock)
    quiet.note("a")
    clock.advance(9)
    quiet.note("a")

    clock.advance(9)

    assert list(quiet.due()) == []
    clock.advance(1)
    assert list(quiet.due()) == [("a", 10)]


def test_without_a_bound_nobody_is_remembered() -> None:
    """A stream that need not wait costs nothing."""
    clock = FakeClock()
    quiet = Quiet(None, 5.0, clock)

    quiet.note("a")
    clock.advance(1e6)

    assert list(quiet.due()) == []
