"""Waiting for a descriptor, and being woken."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from edge_runtime.sources.waiting import Readiness

PATIENCE_S = 60.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def ready(pipe: tuple[int, int]) -> Iterator[Readiness]:
    made = Readiness(pipe[0])
    yield made
    made.close()


def test_what_can_be_read_is_told(ready: Readiness, pipe: tuple[int, int]) -> None:
    """True once there is something, and still after a nap."""
    assert not ready.wait(0.0)

    os.write(pipe[1], b"x")

    assert ready.wait(PATIENCE_S)
    assert ready.nap(0.001)
    assert not ready.is_woken


def test_a_wake_goes_before_what_can_be_read(ready: Readiness, pipe: tuple[int, int]) -> None:
    """Once woken, no wait is true any more."""
    os.write(pipe[1], b"x")
    ready.wake()

    assert not ready.wait(PATIENCE_S)
    assert not ready.nap(PATIENCE_S)
    assert ready.is_woken


def test_a_wake_after_the_close_does_nothing(ready: Readiness) -> None:
    """Threads may be late, and descriptors may be somebody else's by then."""
    ready.close()
    ready.close()
    ready.wake()
