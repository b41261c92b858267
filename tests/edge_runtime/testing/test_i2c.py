"""The fake parts obey their data sheets where a driver can notice."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import smbus2

from edge_runtime.testing import FakeClock
from edge_runtime.testing.i2c import FakeBme280, FakeBus, FakeMpu6050


def _bme280() -> tuple[FakeClock, FakeBme280]:
    clock = FakeClock()
    return clock, FakeBme280(clock)


def _get(part: FakeBme280 | FakeMpu6050, register: int, count: int = 1) -> bytes:
    part.write(bytes([register]))
    return part.read(count)


def test_a_bus_speaks_as_smbus2_does() -> None:
    """A register is written, then read with a repeated start."""
    bus = FakeBus({0x76: _bme280()[1]}).connect(1)
    answer = smbus2.i2c_msg.read(0x76, 1)

    bus.i2c_rdwr(smbus2.i2c_msg.write(0x76, [0xD0]), answer)

    assert list(answer) == [0x60]
    assert bus.bytes_moved == 4 and bus.transfers == 1


def test_a_bus_fails_as_linux_does() -> None:
    """Nobody home, wrong number, not opened: each has its error number."""
    bus = FakeBus({0x76: _bme280()[1]})

    with pytest.raises(OSError, match="Bad file descriptor") as closed:
        bus.read_byte_data(0x76, 0xD0)
    with pytest.raises(FileNotFoundError):
        bus.connect(2)
    bus.connect(1).unplug(0x76)
    with pytest.raises(OSError, match="Remote I/O") as unplugged:
        bus.read_byte_data(0x76, 0xD0)
    assert closed.value.errno == errno.EBADF
    assert unplugged.value.errno == errno.EREMOTEIO


def test_bits_flip_once() -> None:
    """The first read that is long enough is the one that is hurt."""
    bus = FakeBus({0x76: _bme280()[1]}).connect(1)
    bus.flips = [(0, 0x01)]

    assert [bus.read_byte_data(0x76, 0xD0) for _ in range(2)] == [0x61, 0x60]


def test_bme280_measures_once_in_forced_mode() -> None:
    """Section 3.3.3: it says that it measures, and then sleeps again."""
    clock, part = _bme280()
    part.write(b"\xf2\x01\xf4\x25")

    assert _get(part, 0xF3) == b"\x08"
    clock.advance(0.0079)
    assert _get(part, 0xF3) == b"\x08"
    clock.advance(0.0002)
    assert _get(part, 0xF3, 2) == b"\x00\x24"
    assert _get(part, 0xFD, 2) == (27_000).to_bytes(2, "big")


def test_bme280_measures_again_and_again_in_normal_mode() -> None:
    """Section 3.3.4: a measurement of 3 ms, then a pause of 62.5 ms."""
    clock, part = _bme280()
    part.counts = lambda number: (number << 4, 0, 0)
    part.write(b"\xf5\x20\xf4\x23")

    seen, states = [], []
    for _ in range(66):
        clock.advance(0.004)
        seen.append(int.from_bytes(_get(part, 0xFA, 3), "big") >> 8)
        states.append(_get(part, 0xF3)[0])

    assert sorted(set(seen)) == [0, 1, 2, 3]
    assert seen == sorted(seen)
    assert states.count(0x08) <= 4


def test_bme280_takes_settings_as_the_data_sheet_says() -> None:
    """Humidity's with the next ctrl_meas; config not in normal mode; reset clears all."""
    clock, part = _bme280()
    part.write(b"\xf4\x25\xf2\x01")
    clock.advance(0.1)
    assert _get(part, 0xFD, 2) == b"\x80\x00"
    part.write(b"\xf4\x23\xf5\xa0")
    assert _get(part, 0xF5) == b"\x00"

    part.write(b"\xe0\xb6")

    assert _get(part, 0xF2, 3) == b"\x00\x01\x00"
    clock.advance(0.002)
    assert _get(part, 0xF3) == b"\x00"


@pytest.mark.parametrize(("code", "expected"), [(1, 0x7EED0), (2, 0x7EED8), (5, 0x7EEDF)])
def test_bme280_resolves_more_the_longer_it_measures(code: int, expected: int) -> None:
    """Section 3.4.3: 16 bits, and one more for each doubling."""
    clock, part = _bme280()
    part.counts = lambda _: (0x7EEDF, 0, 0)

    part.write(bytes([0xF4, code << 5 | 1]))
    clock.advance(0.1)

    assert int.from_bytes(_get(part, 0xFA, 3), "big") >> 4 == expected


def _mpu6050() -> tuple[FakeClock, FakeMpu6050]:
    """An MPU-6050 that is awake, takes 100 samples a second and puts gyro_x into its FIFO."""
    clock = FakeClock()
    part = FakeMpu6050(clock, lambda t: np.rint(t * 100)[:, None] / 131.072 * np.ones(7))
    part.write(b"\x6b\x01")
    part.write(b"\x1a\x03")
    part.write(b"\x19\x09")
    part.write(b"\x23\x40")
    part.write(b"\x6a\x40")
    return clock, part


def test_mpu6050_sleeps_after_power_on() -> None:
    """Register 107 is 0x40, and no sample comes."""
    clock = FakeClock()
    part = FakeMpu6050(clock)
    clock.advance(1.0)

    assert _get(part, 0x6B) == b"\x40"
    assert _get(part, 0x75) == b"\x68"
    assert _get(part, 0x3A) == b"\x00"
    assert _get(part, 0x3B, 14) == bytes(14)


def test_mpu6050_fills_its_fifo_by_the_clock() -> None:
    """Two bytes a sample; read from an address that stays."""
    clock, part = _mpu6050()
    clock.advance(0.0301)

    assert _get(part, 0x72, 2) == b"\x00\x06"
    assert _get(part, 0x74, 6) == b"\x00\x01\x00\x02\x00\x03"
    assert _get(part, 0x72, 2) == b"\x00\x00"
    assert _get(part, 0x74, 2) == b"\x03\x03"  # empty, it repeats the last byte


def test_mpu6050_keeps_the_newest_when_its_fifo_overflows() -> None:
    """The status says so until it is read."""
    clock, part = _mpu6050()
    clock.advance(10.0001)

    assert _get(part, 0x72, 2) == (1024).to_bytes(2, "big")
    assert _get(part, 0x74, 2) == (1000 - 511).to_bytes(2, "big")
    assert _get(part, 0x3A)[0] & 0x10
    assert not _get(part, 0x3A)[0] & 0x10


def test_mpu6050_empties_its_fifo_only_while_that_is_off() -> None:
    """Register 106: FIFO_RESET counts while FIFO_EN is 0, and clears itself."""
    clock, part = _mpu6050()
    clock.advance(0.0301)

    part.write(b"\x6a\x44")
    assert _get(part, 0x72, 2) == b"\x00\x06"
    part.write(b"\x6a\x04")
    assert _get(part, 0x72, 2) == b"\x00\x00"
    assert _get(part, 0x6A) == b"\x00"


def test_mpu6050_samples_eight_times_as_often_without_filter() -> None:
    """Register 25: the gyroscope's rate is 8 kHz while the filter is off."""
    clock, part = _mpu6050()
    part.write(b"\x1a\x00")
    clock.advance(0.0101)

    assert _get(part, 0x72, 2) == b"\x00\x10"


def test_mpu6050_stops_at_full_scale_and_can_be_reset() -> None:
    """Values saturate at 16 bits; a reset puts it to sleep."""
    clock, part = _mpu6050()
    part.signal = lambda t: np.full((len(t), 7), 1e6)
    clock.advance(0.0101)
    assert _get(part, 0x3B, 2) == b"\x7f\xff"

    part.write(b"\x6b\x80")

    assert _get(part, 0x6B) == b"\x40"
