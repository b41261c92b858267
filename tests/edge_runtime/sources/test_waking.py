"""Waits of a source's thread end when something comes, when time is up, and when woken."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import SourceError
from edge_runtime.sources.waking import Handover, Holder, Silence, Waker
from edge_runtime.testing import FakeClock


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_wait_tells_which_descriptor_is_ready(pipe: tuple[int, int]) -> None:
    """Or none, when the time is up."""
    waker = Waker()

    assert waker.wait([pipe[0]], 0.0) == frozenset()
    os.write(pipe[1], b"x")
    assert waker.wait([pipe[0]], 60.0) == {pipe[0]}
    waker.close()


def test_a_wake_ends_this_wait_and_all_that_follow(pipe: tuple[int, int]) -> None:
    """Also before it has begun, and whatever is ready."""
    waker = Waker()
    threading.Timer(0.02, waker.wake).start()

    assert waker.wait([pipe[0]], 60.0) == frozenset()
    os.write(pipe[1], b"x")
    assert waker.wait([pipe[0]], 60.0) == frozenset()
    waker.close()
    waker.close()
    waker.wake()


@given(st.lists(st.one_of(st.none(), st.integers()), max_size=30))
def test_a_handover_keeps_order_and_never_more_than_it_may(steps: list[int | None]) -> None:
    """What does not fit is refused to whoever brings it."""
    handover: Handover[int] = Handover(3)
    kept: list[int] = []
    for step in steps:
        if step is None:
            assert handover.take(0.0) == (kept.pop(0) if kept else None)
        else:
            assert handover.put(step) == (len(kept) < 3)
            kept = [*kept, step][:3]


def test_a_handover_wakes_whoever_waits() -> None:
    """For an item, or for nothing."""
    handover: Handover[str] = Handover(1)
    threading.Timer(0.02, lambda: handover.put("item")).start()
    assert handover.take(60.0) == "item"

    threading.Timer(0.02, handover.wake).start()
    assert handover.take(60.0) is None
    assert handover.put("late")
    assert handover.take(60.0) is None


class _Part:
    def __init__(self) -> None:
        self.told: list[str] = []

    def wake(self) -> None:
        self.told.append("wake")

    def close(self) -> None:
        self.told.append("close")


def test_a_part_is_woken_and_closed_once() -> None:
    """However often its source is closed; another open closes what was left open."""
    holder: Holder[_Part] = Holder()
    first, second = _Part(), _Part()
    holder.close()
    holder.open(lambda: first)
    holder.open(lambda: second)
    with holder.use() as part:
        assert part is second
    holder.close()
    holder.close()

    assert first.told == second.told == ["wake", "close"]
    with holder.use() as part:
        assert part is None


def test_silence_is_noticed_once_it_is_too_long() -> None:
    """It counts from the start, and from everything that comes."""
    clock = FakeClock()
    silence = Silence(clock, 2_000_000_000, "part 1")
    clock.advance(2.0)
    silence.check()
    silence.end()
    clock.advance(2.1)

    with pytest.raises(SourceError, match=r"part 1: nothing has come for 2\.1 s") as caught:
        silence.check()
    assert caught.value.remedy
