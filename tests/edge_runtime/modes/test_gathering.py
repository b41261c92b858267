"""What waits is answered at once where that gains, and nothing is overtaken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.modes.gathering import Gatherer
from edge_runtime.modes.inbox import Inbox
from edge_runtime.ports import Session
from edge_runtime.types import Frame

SHARED = cast(Session, object())
Item = Frame | str


def frame(number: int, stream: str = "main", *, index: int | None = None) -> Frame:
    """Two samples, the ``number``-th of the stream."""
    at = 2 * number if index is None else index
    return Frame(stream, at, np.arange(at, at + 2), np.full((2, 1), number))


class Bench:
    """A gatherer before an inbox of eight; streams that begin with ``s`` share a session."""

    def __init__(self, items: Sequence[Item] = (), failing: str = "") -> None:
        self.inbox: Inbox[Item] = Inbox(8)
        self.gatherer = Gatherer(
            self.inbox,
            lambda name: SHARED if name.startswith("s") else None,
            lambda name: name != failing,
        )
        self.inbox.limit = 1000
        for item in items:
            assert self.inbox.put(item, 0.0)

    def learn(self, frame_us: int, times: int = 40) -> None:
        """Have frames answered, each of which takes so long."""
        for _ in range(times):
            self.gatherer.note(1, frame_us * 1000)

    def take(self) -> list[list[tuple[str, int]]]:
        """Return what is answered next, as streams and numbers."""
        first = self.inbox.get(0.0)
        assert isinstance(first, Frame)
        groups = self.gatherer.take(first)
        return [[(one.stream, one.samples.item(0)) for one in group] for group in groups]

    def sizes(self) -> list[int]:
        """Take everything; return how many frames were answered at once."""
        found = []
        while not self.inbox.is_empty:
            found.append(sum(map(len, self.take())))
        return found


@pytest.mark.parametrize(
    ("frame_us", "sizes"),
    [
        # Two milliseconds of them, and 64 at most.
        (10, [64, 36]),
        (100, [20] * 5),
        (250, [8] * 12 + [1] * 4),
        # Fewer than eight gain less than the snapshot costs that is taken before.
        (260, [1] * 100),
        (50_000, [1] * 100),
    ],
)
def test_so_many_are_answered_at_once_that_the_first_waits_two_milliseconds(
    frame_us: int, sizes: list[int]
) -> None:
    """A model that takes longer answers frame by frame, however many wait."""
    bench = Bench([frame(i) for i in range(100)])
    bench.learn(frame_us)

    assert bench.sizes() == sizes


def test_nothing_waits_for_company() -> None:
    """A frame that comes alone goes alone, and so do few."""
    alone, few = Bench([frame(0)]), Bench([frame(i) for i in range(8)])
    alone.learn(10)
    few.learn(10)

    assert alone.sizes() == [1]
    assert few.sizes() == [1] * 8


def test_before_anything_was_measured_frames_go_one_by_one() -> None:
    """It may be a model that takes a second; after a dear frame it takes some cheap ones."""
    bench = Bench([frame(i) for i in range(30)])

    sizes = [len(bench.take())]
    bench.learn(10)
    bench.gatherer.note(1, 10**9)
    sizes.append(len(bench.take()[0]))
    bench.learn(10, times=5)
    sizes.append(len(bench.take()[0]))
    bench.learn(10, times=200)
    sizes.append(len(bench.take()[0]))

    assert sizes == [1, 1, 1, 27]


def test_a_stream_whose_model_has_failed_goes_frame_by_frame() -> None:
    """What fails then is one frame; others go on at once."""
    bench = Bench([frame(i) for i in range(10)], failing="main")
    other = Bench([frame(i) for i in range(10)], failing="other")
    bench.learn(10)
    other.learn(10)

    assert bench.sizes() == [1] * 10
    assert other.sizes() == [10]


def test_streams_of_one_session_are_asked_about_together_however_long_it_takes() -> None:
    """One frame of each: that was measured to pay."""
    frames = [frame(i, name) for i in range(2) for name in ("s0", "s1", "s2")]
    bench = Bench(frames)

    assert [bench.take() for _ in range(2)] == [
        [[("s0", i), ("s1", i), ("s2", i)]] for i in range(2)
    ]


def test_streams_in_turn_are_each_answered_at_once() -> None:
    """Frames of one stream follow each other, whatever comes in between."""
    bench = Bench([frame(i, name) for i in range(5) for name in ("a", "b")])
    bench.learn(10)

    assert bench.take() == [[(name, i) for i in range(5)] for name in ("a", "b")]


def test_a_source_that_is_ahead_may_fill_a_block() -> None:
    """The inbox takes as many as are answered at once, and eight where that is slow."""
    bench = Bench()
    limits = []
    for frame_us in (10, 100, 10_000):
        bench.learn(frame_us, times=200)
        limits.append(bench.inbox.limit)

    assert limits == [64, 20, 8]


def _alike(item: object) -> object:
    return item if isinstance(item, str) else (item.stream, item.index)  # type: ignore[attr-defined]


@st.composite
def arrivals(draw: st.DrawFn) -> list[Item]:
    """Frames of four streams, some after a gap, and things that are no frames."""
    at = dict.fromkeys(("a", "b", "s0", "s1"), 0)
    items: list[Item] = []
    names = draw(st.lists(st.sampled_from([*at, *at, "do"]), max_size=80))
    for name in names:
        if name == "do":
            items.append(f"do {len(items)}")
            continue
        at[name] += draw(st.sampled_from([0, 0, 0, 5]))
        items.append(frame(0, name, index=at[name]))
        at[name] += 2
    return items


@given(arrivals(), st.lists(st.sampled_from([1, 10, 100, 5000]), min_size=1, max_size=5))
def test_every_stream_keeps_its_order_and_nothing_overtakes_what_is_no_frame(
    items: list[Item], costs: list[int]
) -> None:
    """Between two of those come all frames that came there, in the order of their streams."""
    bench = Bench(items)
    found: list[object] = []
    for turn in range(len(items)):
        item = bench.inbox.get(0.0)
        if not isinstance(item, Frame):
            found += [] if item is None else [item]
            continue
        bench.learn(costs[turn % len(costs)], times=10)
        for group in bench.gatherer.take(item):
            streams = [one.stream for one in group]
            ends = [one.index + 2 for one in group]
            assert len(set(streams)) in (1, len(streams))
            if streams[0] == streams[-1]:
                assert [one.index for one in group[1:]] == ends[:-1]
            found += group

    assert _by_stream(found, _alike) == _by_stream(items, _alike)


def _by_stream(items: Sequence[object], key: Callable[[object], object]) -> list[object]:
    """Sort frames between two items that are none, keeping the order of each stream."""
    parts: list[list[object]] = [[]]
    for item in items:
        if isinstance(item, str):
            parts += [[item], []]
        else:
            parts[-1].append(item)
    return [
        key(item)
        for part in parts
        for item in sorted(part, key=lambda one: getattr(one, "stream", ""))
    ]
