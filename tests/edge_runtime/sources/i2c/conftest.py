"""A bus with both parts, and time under the test's control."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.i2c import FakeBme280, FakeBus, FakeMpu6050


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that stands until it is told to move."""
    return FakeClock()


@pytest.fixture
def bme280(clock: FakeClock) -> FakeBme280:
    """Give a part that has been on for a while."""
    return FakeBme280(clock)


@pytest.fixture
def mpu6050(clock: FakeClock) -> FakeMpu6050:
    """Give a part that has just been switched on."""
    return FakeMpu6050(clock)


@pytest.fixture
def bus(bme280: FakeBme280, mpu6050: FakeMpu6050) -> FakeBus:
    """Give bus 1 with both parts at their first address."""
    return FakeBus({0x76: bme280, 0x68: mpu6050})


@pytest.fixture
def needs() -> Callable[..., StreamSpec]:
    """Give a maker of needs: a rate, and ``name`` or ``name:unit`` for each channel."""

    def make(rate_hz: float, *channels: str) -> StreamSpec:
        parts = (channel.partition(":") for channel in channels)
        return StreamSpec(tuple(ChannelSpec(name, unit) for name, _, unit in parts), rate_hz)

    return make
