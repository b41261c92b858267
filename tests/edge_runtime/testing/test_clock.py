"""The fake clock moves only when told."""

from __future__ import annotations

import pytest

from edge_runtime.testing import FakeClock


def test_time_stands_until_it_is_advanced() -> None:
    """Both clocks move together."""
    clock = FakeClock(now_ns=100)

    assert (clock.now_ns(), clock.monotonic_ns()) == (100, 0)
    clock.advance(1.5)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1_500_000_100, 1_500_000_000)


def test_jump_moves_wall_time_alone() -> None:
    """NTP can set wall time back, never monotonic time."""
    clock = FakeClock(now_ns=0)

    clock.jump(-3600)

    assert (clock.now_ns(), clock.monotonic_ns()) == (-3600 * 10**9, 0)


def test_time_cannot_pass_backwards() -> None:
    """Advancing by a negative time is a mistake of the test."""
    with pytest.raises(ValueError, match="-1"):
        FakeClock().advance(-1)
