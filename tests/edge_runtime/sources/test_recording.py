"""A recording is replayed from any row, at any pace, and can always be closed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.sources import Recording, RecordingConfig, TableConfig, TimeConfig, Track
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock, read_all

NEED = StreamSpec((ChannelSpec("x"),), 10.0)
ROWS = 50
Make = Callable[..., Recording]


def _track(rows: int = ROWS, step_ns: int = 100_000_000) -> Track:
    time_ns = np.arange(rows, dtype=np.int64) * step_ns
    return Track(time_ns, np.arange(rows, dtype=np.float64)[:, None])


def _recording(
    track: Track | None = None, clock: FakeClock | None = None, **options: object
) -> Recording:
    config = RecordingConfig(path=Path("a.csv"), **options)  # type: ignore[arg-type]
    return Recording(config, lambda _: track or _track(), clock=clock)


class Gate:
    """A pace under a test's control."""

    def __init__(self, *grants: int) -> None:
        self.grants = list(grants)
        self.asked: list[tuple[int, int]] = []

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:
        self.asked.append((index, time_ns))
        return self.grants.pop(0)


@given(st.integers(0, ROWS + 5), st.integers(1, ROWS + 1), st.integers(0, ROWS - 1))
@settings(max_examples=60)
def test_any_index_and_block_give_the_rows_from_there_on(
    index: int, block: int, first_row: int
) -> None:
    """Frame.index is the file's row, wherever a replay begins."""
    source = _recording(block=block, first_row=first_row)

    source.open("s", NEED, index)
    frames = read_all(source)

    rows = [row for frame in frames for row in frame.samples[:, 0].tolist()]
    indices = [frame.index + i for frame in frames for i in range(len(frame))]
    assert rows == indices == list(range(max(index, first_row), ROWS))
    assert all(len(frame) <= block for frame in frames)


def test_last_row_is_exclusive() -> None:
    """Rows are chosen as Python slices are."""
    source = _recording(first_row=10, last_row=12)

    source.open("s", NEED, 0)

    assert [frame.samples[:, 0].tolist() for frame in read_all(source)] == [[10, 11]]


def test_frames_cannot_change_the_recording() -> None:
    """Samples are shared, so they are read-only."""
    source = _recording()
    source.open("s", NEED, 0)
    frame = source.read(0)

    assert frame is not None
    with pytest.raises(ValueError, match="read-only"):
        frame.samples[0] = 1


def test_rows_beyond_the_file_are_refused() -> None:
    """A truncated recording shows at open, not as an early end."""
    with pytest.raises(SourceError, match="ends after 50 rows; expected at least 60"):
        _recording(last_row=60).open("s", NEED, 0)
    with pytest.raises(ConfigError, match="first_row is 50"):
        _recording(first_row=50).open("s", NEED, 0)


def test_declared_rate_must_be_the_model_s() -> None:
    """A wrong rate never reaches a model."""
    with pytest.raises(ConfigError, match="20 Hz; expected the model's 10 Hz"):
        _recording(rate_hz=20.0).open("s", NEED, 0)


def test_rate_with_few_digits_still_fits() -> None:
    """One row an hour may be written as 0.000278 Hz."""
    need = StreamSpec((ChannelSpec("x"),), 0.000278)
    time = TimeConfig(start=datetime(2013, 1, 1, tzinfo=UTC), step_s=3600)
    config = TableConfig(path=Path("a"), time=time)

    Recording(config, lambda _: _track()).open("s", need, 0)

    assert config.declared_rate_hz == pytest.approx(1 / 3600)


def test_nothing_comes_before_open_and_after_close() -> None:
    """A closed source is quiet, and can be opened again."""
    source = _recording()

    assert source.read(0) is None
    assert not source.is_exhausted
    source.open("s", NEED, 0)
    source.close()
    source.close()
    assert source.read(0) is None
    source.open("s", NEED, 3)
    frame = source.read(0)
    assert frame is not None
    assert frame.index == 3


def test_replaced_pace_decides_what_is_delivered() -> None:
    """A simulator holds samples back and lets them go."""
    source = _recording()
    source.pace = gate = Gate(0, 2, 1 << 40)

    source.open("s", NEED, 5)
    frames = [source.read(0) for _ in range(3)]

    assert frames[0] is None
    assert [frame and (frame.index, len(frame)) for frame in frames[1:]] == [(5, 2), (7, 43)]
    assert gate.asked == [(5, 500_000_000), (5, 500_000_000), (7, 700_000_000)]


def test_real_time_delivers_when_samples_are_due() -> None:
    """At speed 1 a sample comes when its time has passed."""
    clock = FakeClock()
    source = _recording(clock=clock, speed=1.0)
    source.open("s", NEED, 10)

    delivered = []
    for seconds in (0, 0, 0.05, 0.05, 0.35, 100):
        clock.advance(seconds)
        frame = source.read(0)
        delivered.append(len(frame) if frame else 0)

    assert delivered == [1, 0, 0, 1, 3, 35]
    assert source.is_exhausted


def test_speed_multiplies_time() -> None:
    """At 20x two seconds pass in a tenth."""
    clock = FakeClock()
    source = _recording(clock=clock, speed=20.0)
    source.open("s", NEED, 0)
    source.read(0)
    clock.advance(0.1)

    frame = source.read(0)

    assert frame is not None
    assert len(frame) == 20


def test_fast_streams_come_in_blocks() -> None:
    """A 16 kHz recording wakes its reader at most 50 times a second."""
    clock = FakeClock()
    source = _recording(_track(16_000, 62_500), clock, speed=1.0, block=16_000)
    source.open("s", NEED, 0)
    frames = []

    for _ in range(1000):
        frame = source.read(0)
        if frame:
            frames.append(frame)
        clock.advance(0.001)

    assert 40 <= len(frames) <= 51
    assert sum(len(frame) for frame in frames) > 15_500


def test_gaps_and_steps_back_keep_real_time() -> None:
    """A gap is waited for; a step back in time comes with the row before it."""
    clock = FakeClock()
    times = np.array([0, 10, 5, 6, 20], np.int64) * 1_000_000_000
    source = _recording(Track(times, np.zeros((5, 1))), clock, speed=1.0)
    source.open("s", NEED, 0)

    delivered = []
    for seconds in (0, 9.9, 0.1, 5, 5):
        clock.advance(seconds)
        frame = source.read(0)
        delivered.append(len(frame) if frame else 0)

    assert delivered == [1, 0, 3, 0, 1]


@given(st.floats(0.1, 1e6), st.lists(st.integers(0, 10**12), min_size=2, max_size=20))
@settings(max_examples=60)
def test_real_time_never_stalls(speed: float, times: list[int]) -> None:
    """Whatever the times, everything is delivered once enough time has passed."""
    clock = FakeClock()
    track = Track(np.array(times, np.int64), np.zeros((len(times), 1)))
    source = _recording(track, clock, speed=speed)
    source.open("s", NEED, 0)
    source.read(0)

    clock.advance(2e4)
    while not source.is_exhausted:
        assert source.read(0)
        clock.advance(0.03)


def test_close_from_another_thread_ends_a_wait() -> None:
    """A reader that waits for a sample a day away returns at once."""
    source = _recording(_track(2, 86_400 * 10**9), speed=1.0)
    source.open("s", NEED, 0)
    assert source.read(0)
    frames: list[object] = []
    reader = threading.Thread(target=lambda: frames.append(source.read(600)))

    reader.start()
    source.close()
    reader.join(10)

    assert not reader.is_alive()
    assert frames == [None]


def test_a_closed_recording_lets_go_of_its_rows() -> None:
    """A device that stays after the end keeps no recording in memory, and knows that it ended."""
    track = _track()
    rows = weakref.ref(track.samples)
    tracks = [track]
    del track
    source = Recording(RecordingConfig(path=Path("a.csv")), lambda _: tracks.pop())
    source.open("s", NEED, 0)
    read_all(source)

    source.close()

    assert rows() is None
    assert source.is_exhausted
    assert source.read(0) is None


def test_grid_of_broken_steps_does_not_drift() -> None:
    """Row k lies k steps after the start, to the nanosecond, however small the step."""
    start = datetime(1970, 1, 1, tzinfo=UTC)

    times = TimeConfig(start=start, step_s=1 / 3200).grid(3_200_001)

    assert times[3200] == 1_000_000_000
    assert times[-1] == 1_000_000_000_000


def test_hourly_grid_is_exact(make: Make) -> None:
    """One row an hour stays exact for a century."""
    times = TimeConfig(start=datetime(2013, 1, 1, tzinfo=UTC), step_s=3600).grid(876_000)

    assert times[-1] - times[0] == 875_999 * 3600 * 10**9
