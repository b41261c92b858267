"""Event times of live samples, the grid of a poll, and what is counted."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ports import SourceHealth
from edge_runtime.sources.live import Health, Polling, SampleClock
from edge_runtime.testing import FakeClock

RATE_HZ = 1000.0
PERIOD_NS = 1_000_000


def _played(clock: FakeClock, stamp: SampleClock, blocks: int, count: int = 50) -> np.ndarray:
    """Let blocks come as regularly as the part promises, and return all times."""
    times = []
    for _ in range(blocks):
        clock.advance(count / RATE_HZ)
        times.append(stamp.stamp(count).time_ns)
    return np.concatenate(times)


def test_regular_blocks_get_the_times_at_which_their_samples_were_taken() -> None:
    """The newest sample of a block was taken when the block came."""
    clock, health = FakeClock(), Health()
    began_ns = clock.now_ns()

    times = _played(clock, SampleClock(RATE_HZ, clock, health), 20)

    assert times[0] == began_ns + PERIOD_NS
    assert (np.diff(times) == PERIOD_NS).all()
    assert health.report().lost_samples == 0
    assert health.report().jitter_s == 0.0


@given(st.lists(st.floats(0, 0.02), min_size=30, max_size=60))
def test_jitter_of_the_arrivals_does_not_reach_the_times(delays_s: list[float]) -> None:
    """Times stay within a few milliseconds of an even grid, and never go back."""
    clock, health = FakeClock(), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    began_ns, late_s, times = clock.now_ns(), 0.0, []
    for delay_s in delays_s:
        clock.advance(0.05 + delay_s - late_s)
        late_s = delay_s
        times.append(stamp.stamp(50).time_ns)
    joined = np.concatenate(times)

    assert (np.diff(joined) > 0).all()
    grid = began_ns + PERIOD_NS * np.arange(1, len(joined) + 1)
    assert np.abs(joined - grid).max() < 25e6
    assert health.report().lost_samples == 0


def test_blocks_that_waited_in_a_queue_are_not_lost() -> None:
    """After a stall the queued blocks come at once; their times go on as if nothing had been."""
    clock, health = FakeClock(), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    before = _played(clock, stamp, 10)
    clock.advance(3.0)
    queued = np.concatenate([stamp.stamp(50).time_ns for _ in range(60)])

    assert health.report().lost_samples == 0
    steps = np.diff(np.concatenate((before, queued)))
    assert np.abs(steps - PERIOD_NS).max() < PERIOD_NS / 10


def test_samples_that_never_come_are_counted_and_make_a_gap() -> None:
    """Blocks that stay late for a second show that samples are missing."""
    clock, health = FakeClock(), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    _played(clock, stamp, 10)
    clock.advance(0.4)
    times = _played(clock, stamp, 40)

    assert health.report().lost_samples == pytest.approx(400, abs=20)
    assert np.diff(times).max() == pytest.approx(400 * PERIOD_NS, rel=0.05)
    assert times[-1] == pytest.approx(clock.now_ns(), abs=20 * PERIOD_NS)


def test_what_the_part_says_is_missing_is_counted_at_once() -> None:
    """An overflow leaves a gap of exactly its length."""
    clock, health = FakeClock(), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    before = _played(clock, stamp, 3)
    clock.advance(0.05 + 0.12)
    after = stamp.stamp(50, lost=120).time_ns

    assert health.report().lost_samples == 120
    assert after[0] - before[-1] == 121 * PERIOD_NS


def test_a_driver_that_tells_when_a_block_was_taken_is_believed() -> None:
    """However late blocks are fetched, their times are the driver's."""
    clock, health = FakeClock(), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    began_ns = clock.now_ns()
    times = []
    for block in range(1, 31):
        clock.advance(0.05 if block % 3 else 0.2)
        times.append(stamp.stamp(50, taken_ns=block * 50 * PERIOD_NS).time_ns)

    assert (np.concatenate(times) == began_ns + PERIOD_NS * np.arange(1, 1501)).all()
    assert health.report() == SourceHealth()


def test_an_oscillator_that_is_off_is_followed() -> None:
    """A part that runs half a percent slow does not look as if it lost samples."""
    clock, health = FakeClock(), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    for _ in range(2000):
        clock.advance(0.05 * 1.005)
        stamps = stamp.stamp(50)

    assert health.report().lost_samples == 0
    assert stamps.step_ns == pytest.approx(1.005 * PERIOD_NS, rel=1e-3)
    assert stamps.time_ns[-1] == pytest.approx(clock.now_ns(), abs=30e6)


def test_a_wall_clock_that_is_set_forward_makes_one_jump() -> None:
    """A device that boots in 1970 learns the time, and its streams with it."""
    clock, health = FakeClock(now_ns=0), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    before = _played(clock, stamp, 3)
    clock.jump(1_000_000.0)
    after = _played(clock, stamp, 3)

    assert after[0] - before[-1] == pytest.approx(1e15, rel=1e-6)
    assert (np.diff(after) == PERIOD_NS).all()


def test_a_wall_clock_that_is_set_back_does_not_turn_time_around() -> None:
    """Times go on, count as unsynced, and the fault is counted once."""
    clock, health = FakeClock(), Health()
    stamp = SampleClock(RATE_HZ, clock, health)
    before = _played(clock, stamp, 3)
    clock.jump(-3600.0)
    after = _played(clock, stamp, 3)

    assert after[0] - before[-1] == PERIOD_NS
    assert health.report().faults == {"clock_set_back": 1}
    clock.advance(0.05)
    assert stamp.stamp(50).clock == "unsynced"


def test_a_poll_is_due_once_per_period() -> None:
    """The first reading is due at once; the next ones on the grid."""
    clock = FakeClock()
    polling = Polling(10.0, clock, threading.Event())

    assert polling.wait(0.0) == 0
    assert polling.wait(0.0) is None
    clock.advance(0.1)
    assert polling.wait(0.0) == 0


def test_a_poll_that_comes_late_says_how_many_readings_it_missed() -> None:
    """The grid stays where it was."""
    clock = FakeClock()
    polling = Polling(10.0, clock, threading.Event())
    polling.wait(0.0)
    clock.advance(0.35)

    assert polling.wait(0.0) == 2
    assert polling.wait(0.0) is None


def test_a_closed_source_is_not_polled() -> None:
    """The event ends the wait."""
    closed = threading.Event()
    closed.set()

    assert Polling(10.0, FakeClock(), closed).wait(10.0) is None
