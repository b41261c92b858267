"""Simulated time follows the wall at any speed, and stands when it is told to."""

from __future__ import annotations

import pytest

from edge_simulator.fleet.pace import Pacer

SECOND_NS = 10**9


class _Wall:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> _Wall:
    """A wall clock that a test moves."""
    return _Wall()


def test_speed_may_change_without_a_jump(wall: _Wall) -> None:
    """Time goes on from where it was, only faster."""
    pacer = Pacer(1.0, wall)
    wall.now_s += 5
    before = pacer.reached_ns(1 << 60)

    pacer.set(10.0, before)

    assert before == pacer.reached_ns(1 << 60) == 5 * SECOND_NS
    wall.now_s += 1
    assert pacer.reached_ns(1 << 60) == 15 * SECOND_NS


def test_a_pause_takes_no_simulated_time(wall: _Wall) -> None:
    """However long it lasts on the wall."""
    pacer = Pacer(2.0, wall)
    wall.now_s += 1
    pacer.pause(2 * SECOND_NS)
    wall.now_s += 1000
    paused = pacer.reached_ns(1 << 60)
    pacer.pause(2 * SECOND_NS)
    wall.now_s += 1

    assert paused == 2 * SECOND_NS
    assert pacer.reached_ns(1 << 60) == 4 * SECOND_NS


def test_without_a_limit_everything_is_due(wall: _Wall) -> None:
    """As fast as possible means up to the end, and no further."""
    assert Pacer(None, wall).reached_ns(77) == 77
    assert Pacer(1e6, wall).reached_ns(77) == 0
