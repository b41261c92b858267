"""A cloud that enrolls over HTTPS on loopback, with a clock of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.testing import FakeClock
from edge_simulator.secured import SecuredCloud


@pytest.fixture
def clock() -> FakeClock:
    """A clock that begins where TLS judges: now."""
    return FakeClock(time.time_ns())


@pytest.fixture
def cloud(tmp_path: Path, clock: FakeClock) -> Iterator[SecuredCloud]:
    with SecuredCloud(tmp_path, clock=clock) as cloud:
        yield cloud
