"""What messages tell, and how what they do not tell is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.types import Frame

Bench = Any
NOW_NS = 1_356_998_400_000_000_000
ONE = {"channels": {"t": {"topic": "x", "path": "t"}}, "timing": "arrival"}


def _read(bench: Bench) -> Frame:
    frame = bench.source.read(0.0)
    assert frame is not None
    return frame


@pytest.mark.parametrize(
    ("payload", "value"),
    [(b"21.5", 21.5), (b" 7\n", 7.0), (b"+21.5", 21.5), (b"true", 1.0), (b'"3"', 3.0)],
)
def test_a_payload_may_be_the_number_itself(
    bench: Callable[..., Bench], payload: bytes, value: float
) -> None:
    """Without a path the payload is the value, also where JSON writes no such number."""
    made = bench({"channels": {"t": {"topic": "x"}}, "timing": "arrival"}, "t")

    made.publish("x", payload)

    assert _read(made).samples.tolist() == [[value]]
    assert made.faults == {}


def test_a_message_gives_the_needed_channels_in_their_order(bench: Callable[..., Bench]) -> None:
    """A model takes any of the channels, in any order."""
    channels = {
        "t": {"topic": "a/+/b", "path": "$.data.temp"},
        "p": {"topic": "a/+/b", "path": "values[0].v"},
        "h": {"topic": "a/+/b", "path": "h"},
    }
    made = bench({"channels": channels, "timing": "arrival"}, "p", "t")

    made.publish("a/oven/b", {"data": {"temp": 21.5}, "values": [{"v": 3}], "h": 50})

    assert made.topics == ("a/+/b",)
    assert _read(made).samples.tolist() == [[3.0, 21.5]]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\xfe", "unparsable"),
        (b"{", "unparsable"),
        (b"", "unparsable"),
        (b"[" * 100_000, "unparsable"),
        (b'{"t": ' + b"1" * 300_000 + b"}", "unparsable"),
        (b'{"u": 1}', "missing_channel"),
        (b'{"t": null}', "missing_channel"),
        (b'{"t": "warm"}', "not_a_number"),
        (b'{"t": 1e400}', "unparsable"),
    ],
)
def test_what_cannot_be_used_is_counted_and_gives_no_sample(
    bench: Callable[..., Bench], payload: bytes, reason: str
) -> None:
    """The stream goes on after any payload, and says why a message gave nothing."""
    made = bench(ONE, "t")

    made.publish("x", payload)
    made.publish("x", {"t": 4})

    assert _read(made).samples.tolist() == [[4.0]]
    assert made.faults == {reason: 1}


@given(st.binary(max_size=40))
def test_no_payload_stops_the_stream(bench: Callable[..., Bench], payload: bytes) -> None:
    """Any bytes are a sample or a count."""
    made = bench(ONE, "t")

    made.publish("x", payload)
    frame = made.source.read(0.0)

    assert (frame is None) == (sum(made.faults.values()) == 1)


def test_a_message_with_part_of_its_channels_has_nan_for_the_others(
    bench: Callable[..., Bench],
) -> None:
    """A missing channel is NaN in its sample, never zero, and counted."""
    channels = {name: {"topic": "x", "path": name} for name in "ab"}
    made = bench({"channels": channels, "timing": "arrival"}, "a", "b")

    made.publish("x", {"b": 2})

    assert np.array_equal(_read(made).samples, [[np.nan, 2.0]], equal_nan=True)
    assert made.faults == {"missing_channel": 1}


def test_a_list_of_readings_with_times_of_their_own(bench: Callable[..., Bench]) -> None:
    """Each reading is a sample at its own time; what holds for all is found from the top."""
    options = {
        "channels": {"t": {"topic": "x", "path": "v"}, "u": {"topic": "x", "path": "$.u"}},
        "readings": "$.values",
        "time": {"path": "at", "format": "unix_ms"},
        "timing": "arrival",
    }
    made = bench(options, "t", "u")
    values = [{"v": 1, "at": 1000}, {"v": 2, "at": "2000.5"}, {"v": 3}, {"v": 4, "at": True}]

    made.publish("x", {"u": 9, "values": values})
    frame = _read(made)

    assert frame.samples.tolist() == [[1.0, 9.0], [2.0, 9.0]]
    assert frame.time_ns.tolist() == [1_000_000_000, 2_000_500_000]
    assert frame.clock == "unsynced"
    assert made.faults == {"no_time": 2}


@pytest.mark.parametrize(
    ("time", "last_ns"),
    [(None, NOW_NS), ({"path": "$.at", "format": "iso"}, NOW_NS - 86_400_000_000_000)],
)
def test_readings_that_share_a_time_lie_a_period_apart(
    bench: Callable[..., Bench], time: object, last_ns: int
) -> None:
    """The last of them was measured at the time of the message."""
    options = {
        "channels": {"x": {"topic": "x", "path": "[0]"}, "y": {"topic": "x", "path": "[1]"}},
        "readings": "values",
        "time": time,
        "timing": "arrival",
    }
    made = bench(options, "x", "y", rate_hz=4.0)

    made.publish("x", {"at": "2012-12-31T00:00:00", "values": [[1, 2], [3, 4], [5, 6]]})
    frame = _read(made)

    assert frame.samples.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert frame.time_ns.tolist() == [last_ns - 500_000_000, last_ns - 250_000_000, last_ns]


def test_a_message_without_its_list_is_counted(bench: Callable[..., Bench]) -> None:
    """A list that is missing, or longer than any sensible one, does not pass unseen."""
    made = bench({**ONE, "readings": "values"}, "t")

    made.publish("x", {"values": 3})
    made.publish("x", {"values": [{"t": i} for i in range(5000)]})

    assert _read(made).samples[-1].tolist() == [4999.0]
    assert made.faults == {"no_readings": 1, "too_many_readings": 904}
