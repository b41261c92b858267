"""Sources on an I2C bus keep the contract of live sources, on a bus that is fake."""

from __future__ import annotations

from edge_runtime.clock import SystemClock
from edge_runtime.ports import LiveSource
from edge_runtime.sources.i2c.bme280 import Bme280Config, Bme280Source
from edge_runtime.sources.i2c.mpu6050 import Mpu6050Config, Mpu6050Source
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import check_live_source
from edge_runtime.testing.i2c import FakeBme280, FakeBus, FakeMpu6050


def test_bme280_keeps_its_contract() -> None:
    """Readings are asked for one by one."""
    need = StreamSpec((ChannelSpec("humidity"), ChannelSpec("temperature")), 100.0)

    def make() -> LiveSource:
        bus = FakeBus({0x76: FakeBme280(SystemClock())})
        return Bme280Source(Bme280Config(bus_hz=400_000), connect=bus.connect)

    check_live_source(make, need)


def test_mpu6050_keeps_its_contract() -> None:
    """Readings come in bursts from a FIFO."""
    need = StreamSpec((ChannelSpec("gyro_z"), ChannelSpec("accel_x")), 500.0)

    def make() -> LiveSource:
        bus = FakeBus({0x69: FakeMpu6050(SystemClock())})
        return Mpu6050Source(Mpu6050Config(address=0x69, bus_hz=400_000), connect=bus.connect)

    check_live_source(make, need, samples=100)
