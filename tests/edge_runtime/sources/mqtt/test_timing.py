"""Readings that come when they come lie on a grid, or are samples of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.quality import Quality
from edge_runtime.sources.mqtt.timing import Held
from edge_runtime.spec import GridSpec
from edge_runtime.types import Frame

Bench = Any
NOW_NS = 1_356_998_400_000_000_000
S_NS = 1_000_000_000
TWO = {"channels": {"a": {"topic": "a"}, "b": {"topic": "b"}}, "max_age_s": 2.5}
ARRIVAL = {"channels": {"a": {"topic": "a"}}, "timing": "arrival"}
TIMED = {
    "channels": {"a": {"topic": "a", "path": "v"}},
    "time": {"path": "t", "format": "unix_ns"},
}


def _joined(frames: list[Frame | None]) -> tuple[list[list[float]], list[int]]:
    found = [frame for frame in frames if frame is not None]
    return (
        [row for frame in found for row in frame.samples.tolist()],
        [(time - NOW_NS) for frame in found for time in frame.time_ns.tolist()],
    )


@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(-9, 9)), max_size=30),
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
)
def test_a_held_value_is_the_newest_one_that_is_not_too_old(
    puts: list[tuple[int, float]], steps: list[int]
) -> None:
    """In whatever order values come, a point sees the newest at or before it, or nothing."""
    held = Held(max_age_ns=7)
    for time, value in puts:
        held.put(time, time, value)
    points = np.cumsum(steps)

    found = np.concatenate(
        [held.take(points[:3]), held.take(points[3:])] if len(points) > 3 else [held.take(points)]
    )

    for point, value in zip(points, found, strict=True):
        before = [(t, i) for i, (t, _) in enumerate(puts) if t <= point]
        newest = max(before, default=None)
        expected = np.nan if newest is None or point - newest[0] > 7 else puts[newest[1]][1]
        assert np.array_equal(value, expected, equal_nan=True)


def test_between_two_points_only_the_last_value_is_kept() -> None:
    """A fast sender needs no more memory than the grid has points."""
    held = Held(max_age_ns=1e9)
    for time in range(1, 1000):
        held.put(time, -(-time // 100), float(time))

    assert len(held._values) == 10
    assert held.take(np.array([100, 200, 1000])).tolist() == [100.0, 200.0, 999.0]


def test_topics_merge_into_rows_and_old_values_become_nan(bench: Callable[..., Bench]) -> None:
    """The last value holds up to its maximum age; without any value there is a gap."""
    made = bench(TWO, "a", "b")
    frames = [made.source.read(0.0)]
    script = {1: ("a", 1), 2: ("b", 2), 4: ("b", 3), 9: ("a", 4)}
    for second in range(1, 11):
        made.clock.advance(0.9)
        if second in script:
            made.publish(*script[second])
        made.clock.advance(0.1)
        frames.append(made.source.read(0.0))

    rows, times = _joined(frames)
    nan = np.nan
    expected = [[1, nan], [1, 2], [1, 2], [nan, 3], [nan, 3], [nan, 3], [4, nan], [4, nan]]
    assert np.array_equal(rows, expected, equal_nan=True)
    assert times == [s * S_NS for s in (1, 2, 3, 4, 5, 6, 9, 10)]
    assert made.source.health().lost_samples == 2
    assert made.faults == {}
    marked = [frame for frame in frames if frame is not None and frame.quality is not None]
    assert [frame.quality.tolist() for frame in marked] == [[Quality.LOST_BEFORE]]
    assert marked[0].samples[0, 0] == 4


@pytest.mark.parametrize("timing", ["grid", "arrival"])
def test_saturated_and_frozen_readings_are_kept_counted_and_marked(
    bench: Callable[..., Bench], timing: str
) -> None:
    """The configuration knows the ends of the scale, and how long a value may stand still."""
    options = {"frozen_s": 3, "full_scale": {"a": [-5, 5]}, "timing": timing, "max_age_s": 1.5}
    made = bench(ARRIVAL | options, "a")
    made.source.read(0.0)
    frames = []
    for value in [5, 1, 1, 1, 1, 1, 2, -5]:
        made.clock.advance(0.9)
        made.publish("a", value)
        made.clock.advance(0.1)
        frames.append(made.source.read(0.0))

    masks = [0 if frame.quality is None else int(frame.quality[0]) for frame in frames]
    assert masks == [1, 0, 0, 0, Quality.FROZEN, Quality.FROZEN, 0, 1]
    assert made.faults == {"saturated": 2, "frozen": 2}


def test_before_the_first_message_nothing_counts_as_lost(bench: Callable[..., Bench]) -> None:
    """A stream that has not begun misses nothing."""
    made = bench(TWO, "a", "b")
    for _ in range(5):
        made.clock.advance(1.0)
        assert made.source.read(0.0) is None

    assert made.source.health().lost_samples == 0


def test_fast_streams_come_in_blocks_with_an_even_step(bench: Callable[..., Bench]) -> None:
    """At 200 Hz a frame has 10 samples, and promises its step."""
    made = bench(TWO, "a", "b", rate_hz=200.0)
    made.source.read(0.0)
    made.publish("a", 1)
    frames = []
    for _ in range(4):
        made.clock.advance(0.05)
        frames.append(made.source.read(0.0))

    assert [len(frame) for frame in frames] == [10, 10, 10, 10]
    assert {frame.step_ns for frame in frames} == {5_000_000}
    assert [frame.index for frame in frames] == [0, 10, 20, 30]


def test_a_pipeline_that_stalls_gets_its_rows_afterwards(bench: Callable[..., Bench]) -> None:
    """Messages that waited in the queue take their places on the grid."""
    made = bench(TWO, "a", "b")
    made.source.read(0.0)
    for value in range(1, 6):
        made.clock.advance(0.9)
        made.publish("a", value)
        made.clock.advance(0.1)

    rows, times = _joined([made.source.read(0.0)])

    assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
    assert times == [s * S_NS for s in (1, 2, 3, 4, 5)]
    assert made.source.health().lost_samples == 0


def test_times_in_messages_and_a_delay_put_late_values_in_their_place(
    bench: Callable[..., Bench],
) -> None:
    """A grid that runs two seconds behind takes values that come up to two seconds late."""
    made = bench({**TIMED, "delay_s": 2.0, "max_age_s": 0.5}, "a")
    frames = [made.source.read(0.0)]
    for measured in (0, 2, 1, 4, 3, 0):
        made.clock.advance(1.0)
        made.publish("a", {"v": measured, "t": NOW_NS + measured * S_NS})
        frames.append(made.source.read(0.0))

    rows, times = _joined(frames)
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert times == [s * S_NS for s in range(5)]
    assert made.faults == {"late": 1}


def test_a_sender_whose_clock_is_ahead_is_taken_at_its_arrival(
    bench: Callable[..., Bench],
) -> None:
    """Nothing is measured in the future; what claims so is counted and used now."""
    made = bench(TIMED, "a")
    made.source.read(0.0)
    made.clock.advance(0.5)
    made.publish("a", {"v": 5, "t": NOW_NS + 3600 * S_NS})
    made.clock.advance(0.5)

    rows, _ = _joined([made.source.read(0.0)])

    assert rows == [[5.0]]
    assert made.faults == {"ahead": 1}


def test_a_wall_clock_that_is_set_does_not_age_what_is_held(bench: Callable[..., Bench]) -> None:
    """Ages are monotonic: an hour forward or back changes no value."""
    made = bench(TWO, "a", "b")
    made.source.read(0.0)
    made.publish("a", 1)
    made.clock.jump(3600)
    made.clock.advance(1.0)
    forward = made.source.read(0.0)
    made.clock.jump(-7200)
    made.clock.advance(1.0)
    back = made.source.read(0.0)

    assert forward.samples[:, 0].tolist() == back.samples[:, 0].tolist() == [1.0]
    assert back.time_ns[0] - forward.time_ns[0] == S_NS
    assert back.clock == "unsynced"
    assert made.faults == {"clock_set_back": 1}


def test_every_reading_is_a_sample_at_its_arrival(bench: Callable[..., Bench]) -> None:
    """Gaps count as lost samples by the rate of the model."""
    made = bench(ARRIVAL, "a", rate_hz=10.0)
    for step_s in (0.1, 0.1, 0.5):
        made.clock.advance(step_s)
        made.publish("a", step_s)

    rows, times = _joined([made.source.read(0.0)])

    assert rows == [[0.1], [0.1], [0.5]]
    assert times == [100_000_000, 200_000_000, 700_000_000]
    assert made.source.health().lost_samples == 4


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.data())
def test_times_of_samples_grow_in_whatever_order_readings_come(
    bench: Callable[..., Bench], times: list[int], data: st.DataObject
) -> None:
    """A reading repeated or overtaken is counted, and no sample goes back in time."""
    made = bench({**TIMED, "timing": "arrival"}, "a")
    frames = []
    for time in times:
        made.publish("a", {"v": time, "t": NOW_NS + time * S_NS})
        if data.draw(st.booleans()):
            frames.append(made.source.read(0.0))
    frames.append(made.source.read(0.0))

    rows, found = _joined(frames)
    expected = [t for i, t in enumerate(times) if t > max(times[:i], default=-1)]
    assert [row[0] for row in rows] == expected
    assert found == [t * S_NS for t in expected]
    assert made.faults.get("out_of_order", 0) == len(times) - len(expected)
    assert made.source.health().lost_samples == expected[-1] - expected[0] + 1 - len(expected)


def test_a_full_queue_lets_the_oldest_go(bench: Callable[..., Bench]) -> None:
    """What does not fit is counted."""
    made = bench({**ARRIVAL, "queue": 2, "time": None}, "a")
    for value in range(5):
        made.clock.advance(1.0)
        made.publish("a", value)

    rows, _ = _joined([made.source.read(0.0)])

    assert rows == [[3.0], [4.0]]
    assert made.faults == {"queue_full": 3}


@pytest.mark.parametrize("options", [TWO, ARRIVAL], ids=["grid", "arrival"])
def test_an_index_goes_on_after_a_new_open(bench: Callable[..., Bench], options: Any) -> None:
    """A source that was closed can be opened again where the stream is."""
    made = bench(options, *options["channels"])
    made.source.close()
    assert made.source.read(0.0) is None
    made.source.open("s", made.need, 41)
    made.source.read(0.0)
    made.publish("a", 1)
    made.clock.advance(1.0)

    assert made.source.read(0.0).index == 41


MANY = {
    "channels": {"a": {"topic": "plant/+/state", "path": "a"}, "b": {"topic": "plant/+/more"}},
    "timing": "arrival",
    "key": 1,
}


def test_a_level_of_the_topic_may_name_the_device(bench: Callable[..., Bench]) -> None:
    """Each message is a row of its device; what it does not hold is missing there."""
    made = bench(MANY, "a", "b", grid=GridSpec())
    made.publish("plant/m-1/state", {"a": 1})
    made.publish("plant/m-2/more", 5)
    made.publish("plant//more", 6)

    frame = made.source.read(0.0)

    assert frame is not None
    assert frame.keys is not None
    assert frame.keys.tolist() == ["m-1", "m-2", None]
    np.testing.assert_array_equal(frame.samples, [[1, np.nan], [np.nan, 5], [np.nan, 6]])
    assert made.faults == {}


@pytest.mark.parametrize(
    ("payload", "key"),
    [({"v": 1, "id": "x 7"}, "x 7"), ({"v": 1, "id": 12}, "12"), ({"v": 1}, None)],
)
def test_the_payload_may_name_the_device(
    bench: Callable[..., Bench], payload: object, key: str | None
) -> None:
    """By text or a whole number."""
    channels = {"a": {"topic": "all", "path": "v"}}
    made = bench({"channels": channels, "timing": "arrival", "key": "$.id"}, "a")
    made.publish("all", payload)

    frame = made.source.read(0.0)

    assert frame is not None
    assert frame.keys is not None
    assert frame.keys.tolist() == [key]


def test_several_topics_of_many_devices_need_a_grid(bench: Callable[..., Bench]) -> None:
    """Nothing else brings the channels of a device together."""
    with pytest.raises(ConfigError, match="plant/"):
        bench(MANY, "a", "b")


@pytest.mark.parametrize("options", [{"timing": "grid"}, {"frozen_s": 5}])
def test_what_looks_at_one_device_does_not_go_with_a_key(
    bench: Callable[..., Bench], options: dict[str, object]
) -> None:
    """Values held on a grid, and readings that stand still."""
    with pytest.raises(msgspec.ValidationError, match="there is a key"):
        bench(ARRIVAL | {"key": 0} | options, "a")
