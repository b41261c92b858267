"""Transfers of one part, and what each failure of the bus means."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import smbus2

from edge_runtime.errors import MissingExtra, SourceError
from edge_runtime.sources.i2c.bme280 import Bme280Config, Bme280Source
from edge_runtime.sources.i2c.bus import BusConfig, Part, bus_speed_hz, transfer_s
from edge_runtime.spec import StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.i2c import FakeBus

ID = 0xD0


def _part(bus: FakeBus, number: int = 1) -> Part:
    return Part("bme280", number, 0x76, bus.connect)


def test_registers_are_read_and_written(bus: FakeBus) -> None:
    """A transfer names the register and goes on from there."""
    part = _part(bus)

    assert part.open(ID) == 0x60
    part.write(0xF2, 5)
    assert part.read(0xF2, 1) == b"\x05"
    assert part.read(0x88, 2) == (27504).to_bytes(2, "little")


@pytest.mark.parametrize(
    ("number", "what", "remedy"),
    [
        (errno.ENOENT, "/dev/i2c-1 does not exist", "modprobe i2c-dev"),
        (errno.EACCES, "may not be opened by this user", "usermod -aG i2c"),
        (errno.ENOTTY, "no adapter for plain I2C", "another bus"),
        (errno.EMFILE, "Too many open files", "i2cdetect -y 1"),
    ],
)
def test_a_bus_that_cannot_be_opened_says_why(
    bus: FakeBus, number: int, what: str, remedy: str
) -> None:
    """Place, cause and remedy stand in the message."""
    bus.open_error = number

    with pytest.raises(SourceError) as caught:
        _part(bus).open(ID)

    assert "bme280 at address 0x76 of /dev/i2c-1" in caught.value.where
    assert what in caught.value.what and remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("number", "what", "remedy"),
    [
        (errno.EREMOTEIO, "no part answers at 0x76", "i2cdetect -y 1"),
        (errno.ENXIO, "no part answers at 0x76", "i2cdetect -y 1"),
        (errno.ETIMEDOUT, "holds SDA or SCL low", "power"),
        (errno.EBUSY, "driver of the kernel", "unbind"),
        (errno.EIO, "Input/output error", "SDA and SCL"),
    ],
)
def test_a_transfer_that_fails_says_why(bus: FakeBus, number: int, what: str, remedy: str) -> None:
    """The kernel's error number becomes a sentence."""
    part = _part(bus)
    part.open(ID)
    bus.error = number

    for transfer in (
        partial(part.read, ID, 1),
        partial(part.write, 0xF4, 0),
        partial(part.open, ID),
    ):
        with pytest.raises(SourceError) as caught:
            transfer()
        assert what in caught.value.what and remedy in caught.value.remedy


def test_another_bus_is_not_this_one(bus: FakeBus) -> None:
    """The number of the configuration is the number in the message."""
    with pytest.raises(SourceError, match="/dev/i2c-7 does not exist"):
        _part(bus, 7).open(ID)


def test_a_closed_part_is_not_read(bus: FakeBus) -> None:
    """Close releases the bus; twice is once."""
    part = _part(bus)
    part.open(ID)

    part.close()
    part.close()

    assert not bus.is_open and not part.is_open
    with pytest.raises(SourceError, match="not open"):
        part.read(ID, 1)


def test_without_smbus2_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing the source is enough."""
    monkeypatch.setitem(sys.modules, "smbus2", None)

    with pytest.raises(MissingExtra, match=r'pip install "edge-runtime\[i2c\]"'):
        Bme280Source(Bme280Config())


def test_the_speed_of_a_bus_is_what_the_device_tree_says(tmp_path: Path) -> None:
    """Where it says nothing, the standard mode of I2C is assumed."""
    node = tmp_path / "bus/i2c/devices/i2c-1/of_node"
    node.mkdir(parents=True)
    (node / "clock-frequency").write_bytes((400_000).to_bytes(4, "big"))

    assert bus_speed_hz(1, tmp_path) == 400_000
    assert bus_speed_hz(2, tmp_path) == 100_000
    assert BusConfig(bus_hz=50_000).speed_hz == 50_000


def test_a_transfer_takes_nine_bits_a_byte(bus: FakeBus) -> None:
    """Two addresses and a register come on top, as they do on the wire."""
    part = _part(bus)
    part.open(ID)

    part.read(0x88, 26)

    assert transfer_s(26, 400_000) == pytest.approx(bus.bytes_moved * 9 / 400_000)


def test_smbus2_itself_drives_the_fake_bus_through_its_ioctls(
    bus: FakeBus,
    clock: FakeClock,
    needs: Callable[..., StreamSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The structures that reach the kernel mean what the fake bus is asked directly."""
    node = tmp_path / "i2c-1"
    node.touch()
    monkeypatch.setattr(smbus2.smbus2, "ioctl", _Kernel(bus))
    source = Bme280Source(Bme280Config(), clock=clock, connect=lambda _: smbus2.SMBus(str(node)))

    source.open("air", needs(1.0, "temperature"), 0)
    assert source.read(0.0) is None
    clock.advance(0.1)
    frame = source.read(0.0)
    source.close()

    assert frame is not None
    assert frame.samples[0, 0] == pytest.approx(25.08, abs=0.01)


class _Kernel:
    """Answers the ioctls of linux/i2c-dev.h for one bus."""

    FUNCS, SLAVE, RDWR, SMBUS = 0x0705, 0x0703, 0x0707, 0x0720
    READ, BYTE_DATA = 1, 2

    def __init__(self, bus: FakeBus) -> None:
        self._bus = bus.connect(1)
        self._address = 0

    def __call__(self, fd: int, request: int, argument: Any) -> int:
        os.fstat(fd)
        if request == self.FUNCS:
            argument.value = 0x1 | 0x00180000  # I2C_FUNC_I2C, READ and WRITE of BYTE_DATA
        elif request == self.SLAVE:
            self._address = argument
        elif request == self.RDWR:
            self._bus.i2c_rdwr(*(argument.msgs[i] for i in range(argument.nmsgs)))
        elif request == self.SMBUS:
            assert (argument.read_write, argument.size) == (self.READ, self.BYTE_DATA)
            found = self._bus.read_byte_data(self._address, argument.command)
            ctypes.cast(argument.data, ctypes.POINTER(ctypes.c_uint8))[0] = found
        return 0
