"""Event times from a driver's stamps, whatever the driver does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import SourceError
from edge_runtime.sources.iio.stamps import KernelStamps
from edge_runtime.sources.live import Health
from edge_runtime.testing import FakeClock

PERIOD_NS = 10_000_000


def _stamped(blocks: list[np.ndarray]) -> tuple[np.ndarray, Health]:
    """Return the event times of blocks that are taken as soon as they are whole."""
    clock, health = FakeClock(), Health()
    stamps, times = KernelStamps(100.0, clock, health), []
    for block in blocks:
        clock.advance(max(0.0, (int(block[-1]) - clock.monotonic_ns()) / 1e9))
        times.append(stamps.stamp(block)[0])
    return np.concatenate(times) - (clock.now_ns() - clock.monotonic_ns()), health


def _cut(stamps_ns: np.ndarray, size: int) -> list[np.ndarray]:
    return [stamps_ns[first : first + size] for first in range(0, len(stamps_ns), size)]


@given(
    gaps=st.lists(st.integers(0, 5), min_size=1, max_size=100),
    jitter=st.lists(st.floats(-0.2, 0.2), min_size=100, max_size=100),
    size=st.integers(1, 40),
)
def test_every_lost_sample_is_counted_and_no_other(
    gaps: list[int], jitter: list[float], size: int
) -> None:
    """Gaps of any length, in any blocks, under interrupts that come early and late."""
    numbers = np.cumsum([gap + 1 for gap in gaps])
    stamps_ns = np.rint((numbers + jitter[: len(gaps)]) * PERIOD_NS).astype(np.int64)

    times, health = _stamped(_cut(stamps_ns, size))

    assert health.report().lost_samples == sum(gaps[1:])
    assert np.abs(times - stamps_ns).max() < PERIOD_NS / 2
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("off", [-0.06, 0.0, 0.06])
def test_an_oscillator_that_is_off_loses_nothing(off: float, size: int) -> None:
    """Six per cent are usual for a sensor's own clock; the grid follows it."""
    stamps_ns = np.rint(PERIOD_NS * (1 + off) * np.arange(1, 2000)).astype(np.int64)

    times, health = _stamped(_cut(stamps_ns, size))

    assert health.report().lost_samples == 0
    assert np.abs(times - stamps_ns)[-200:].max() < PERIOD_NS / 2
    assert np.diff(times).max() < 1.3 * PERIOD_NS


def test_a_late_interrupt_is_no_gap() -> None:
    """The next sample comes in time, so none is missing; the event times stay even."""
    stamps_ns = PERIOD_NS * np.arange(1, 101)
    stamps_ns[[30, 31, 60]] += [7_000_000, 9_000_000, 8_000_000]

    times, health = _stamped(_cut(stamps_ns, 20))

    assert health.report().lost_samples == 0
    assert np.diff(times).max() < 1.1 * PERIOD_NS


@given(st.lists(st.lists(st.integers(1, 80_000_000), min_size=1), min_size=1))
def test_event_times_grow_whatever_the_driver_stamps(blocks: list[list[int]]) -> None:
    """However wild the steps, times grow, and follow in the end."""
    stamps_ns = np.cumsum([step for block in blocks for step in block])
    ends = np.cumsum([len(block) for block in blocks])[:-1]

    times, _ = _stamped(np.split(stamps_ns, ends))

    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize(
    ("stamps_ns", "message"),
    [
        ([1_356_998_400_000_000_000], "expected monotonic time"),
        ([9_000_000] * 8, "does not grow"),
    ],
)
def test_stamps_that_tell_nothing_are_refused(stamps_ns: list[int], message: str) -> None:
    """A driver that stamps with wall time, or whole bursts with one time, is not believed."""
    stamps = KernelStamps(100.0, FakeClock(), Health())

    with pytest.raises(SourceError, match=rf"{message}.*\n.*timestamps: false"):
        stamps.stamp(np.array(stamps_ns))
