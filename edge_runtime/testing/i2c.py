"""An I2C bus without hardware: fake parts behind the interface of ``smbus2.SMBus``.

The parts obey their data sheets where a driver can notice: registers and their values
after power-on, modes, measuring times, a FIFO that fills by a clock and overflows. The
bus fails as Linux does: with an `OSError` of the same number.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from edge_runtime.ports import Clock
from edge_runtime.sources.i2c.bus import NO_ACKNOWLEDGE

__all__ = ["FakeBme280", "FakeBus", "FakeMpu6050", "FakePart"]

_READ = 0x0001  # I2C_M_RD of linux/i2c.h


class FakePart(Protocol):
    """A part on the bus."""

    def power_on(self) -> None:
        """Forget everything: power has come back."""
        ...

    def write(self, content: bytes) -> None:
        """Take the bytes of one message: a register, and values for it."""
        ...

    def read(self, count: int) -> bytes:
        """Return bytes from the register that was named last."""
        ...


class FakeBus:
    """One bus with its parts; stands in for ``smbus2.SMBus``.

    Args:
        parts: By address.
        number: The only bus there is.

    Attributes:
        open_error: Number of the error with which opening fails, such as ``errno.EACCES``.
        error: Number of the error with which transfers fail: ``errno.ETIMEDOUT`` for a
            bus that is stuck, ``errno.EBUSY`` for a part that the kernel holds.
        flips: Bits to flip in coming reads of at least so many bytes: (byte, mask).
        transfers: Transfers so far.
        bytes_moved: Bytes on the bus so far, addresses included.
        is_open: Whether somebody has it open.
    """

    def __init__(self, parts: Mapping[int, FakePart], *, number: int = 1) -> None:
        self.open_error: int | None = None
        self.error: int | None = None
        self.flips: list[tuple[int, int]] = []
        self.transfers = 0
        self.bytes_moved = 0
        self.is_open = False
        self._parts = dict(parts)
        self._unplugged: set[int] = set()
        self._number = number

    def connect(self, number: int) -> FakeBus:
        """Open the bus; what a source is given as ``connect``."""
        if number != self._number:
            raise _error(errno.ENOENT)
        _fail(self.open_error)
        self.is_open = True
        return self

    def unplug(self, address: int) -> None:
        """Take a part off: nothing acknowledges its address any more."""
        self._unplugged.add(address)

    def plug(self, address: int) -> None:
        """Put a part back, as it is after power-on."""
        self._unplugged.discard(address)
        self._parts[address].power_on()

    def i2c_rdwr(self, *i2c_msgs: Any) -> None:
        """Carry out messages of ``smbus2.i2c_msg``."""
        self.transfers += 1
        for message in i2c_msgs:
            part = self._part(message.addr)
            self.bytes_moved += 1 + message.len
            if message.flags & _READ:
                answer = self._flipped(part.read(message.len))
                ctypes.memmove(message.buf, answer, message.len)
            else:
                part.write(ctypes.string_at(message.buf, message.len))

    def read_byte_data(self, i2c_addr: int, register: int) -> int:
        """Read one register."""
        part = self._part(i2c_addr)
        part.write(bytes([register]))
        return self._flipped(part.read(1))[0]

    def close(self) -> None:
        """Close the file."""
        self.is_open = False

    def _part(self, address: int) -> FakePart:
        if not self.is_open:
            raise _error(errno.EBADF)
        _fail(self.error)
        if address not in self._parts or address in self._unplugged:
            raise _error(NO_ACKNOWLEDGE)
        return self._parts[address]

    def _flipped(self, answer: bytes) -> bytes:
        if self.flips and self.flips[0][0] < len(answer):
            changed = bytearray(answer)
            place, mask = self.flips.pop(0)
            changed[place] ^= mask
            return bytes(changed)
        return answer


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _fail(number: int | None) -> None:
    if number is not None:
        raise _error(number)


Counts = tuple[int, int, int]


def _lively(measurement: int) -> Counts:
    """Temperature, pressure and humidity with a little noise, as every sensor has."""
    noise = 16 * (measurement % 5)
    return 519_888 + noise, 415_148 + 3 * noise, 27_000 + measurement % 7


class FakeBme280:
    """A BME280; calibrated as in the worked example of the BMP280 data sheet, section 3.12.

    Args:
        clock: Measurements take time by it.
        counts: Temperature, pressure (20 bits) and humidity (16 bits) of each measurement
            since power-on, from 0 on.
        chip_id: 0x60, or that of another part.

    Attributes:
        counts: As above; may be changed at any time.
        slowness: How much longer than typical a measurement, and a pause, takes.
    """

    _CALIBRATION = (27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
    _H1, _H2, _H3, _H4, _H5, _H6 = 75, 370, 0, 313, 50, 30
    _STARTING_NS = 2_000_000
    _STANDBY_S = (0.0005, 0.0625, 0.125, 0.25, 0.5, 1.0, 0.01, 0.02)

    def __init__(
        self, clock: Clock, counts: Callable[[int], Counts] = _lively, *, chip_id: int = 0x60
    ) -> None:
        self.counts = counts
        self.slowness = 1.0
        self._clock = clock
        self._chip_id = chip_id
        self._registers = bytearray(256)
        self.power_on()
        self._on_ns -= self._STARTING_NS

    def power_on(self) -> None:
        """Start in sleep mode; the calibration is copied within 2 ms."""
        self._registers = bytearray(256)
        self._registers[0xD0] = self._chip_id
        self._registers[0xF7:0xFF] = b"\x80\0\0\x80\0\0\x80\0"
        self._fill_calibration()
        self._on_ns = self._clock.monotonic_ns()
        self._pointer = 0
        self._ctrl_hum = 0
        self._measurements = 0
        self._cycles = 0
        self._began_ns: int | None = None

    def write(self, content: bytes) -> None:
        """Take pairs of register and value; section 6.2.1."""
        self._go_on()
        self._pointer = content[0]
        for register, value in zip(content[::2], content[1::2], strict=False):
            self._set(register, value)

    def read(self, count: int) -> bytes:
        """Return registers from the pointer on; section 6.2.2."""
        self._go_on()
        return bytes(self._registers[self._pointer : self._pointer + count])

    def _set(self, register: int, value: int) -> None:
        is_normal = self._registers[0xF4] & 3 == 3
        if register == 0xF5 and is_normal:
            return  # section 5.4.6: may be ignored
        if register in (0xF2, 0xF4, 0xF5):
            self._registers[register] = value
        if register == 0xF4:
            self._ctrl_hum = self._registers[0xF2]  # section 5.4.3: taken only now
            self._began_ns = self._clock.monotonic_ns() if value & 3 else None
            self._cycles = 0
        if register == 0xE0 and value == 0xB6:
            self.power_on()

    @property
    def _oversampling(self) -> list[int]:
        """Of temperature, pressure and humidity; 0 where it is left out."""
        ctrl = self._registers[0xF4]
        codes = (ctrl >> 5, ctrl >> 2 & 7, self._ctrl_hum & 7)
        return [1 << min(code, 5) - 1 if code else 0 for code in codes]

    @property
    def _takes_ns(self) -> float:
        """Typical time of a measurement; section 9.1."""
        temperature, pressure, humidity = self._oversampling
        typical_ms = 1.0 + 2 * temperature
        typical_ms += 2 * pressure + 0.5 if pressure else 0
        typical_ms += 2 * humidity + 0.5 if humidity else 0
        return self.slowness * typical_ms * 1e6

    def _go_on(self) -> None:
        """Do what has become due since the last access."""
        now_ns = self._clock.monotonic_ns()
        is_copying = now_ns - self._on_ns < self._STARTING_NS
        is_measuring = self._began_ns is not None and self._measure(now_ns - self._began_ns)
        self._registers[0xF3] = 0x08 * is_measuring | 0x01 * is_copying

    def _measure(self, elapsed_ns: int) -> bool:
        """Bring the results up to date; return whether a measurement is under way."""
        if self._registers[0xF4] & 3 == 3:
            return self._cycle(elapsed_ns)
        if elapsed_ns < self._takes_ns:
            return True
        self._finish(1)
        self._registers[0xF4] &= 0xFC  # section 3.3.3: back to sleep
        self._began_ns = None
        return False

    def _cycle(self, elapsed_ns: int) -> bool:
        """Measure and pause in turn; section 3.3.4."""
        pause_s = self.slowness * self._STANDBY_S[self._registers[0xF5] >> 5]
        cycle_ns = self._takes_ns + pause_s * 1e9
        ended = int((elapsed_ns - self._takes_ns) // cycle_ns) + 1
        if ended > self._cycles:
            self._finish(ended - self._cycles)
            self._cycles = ended
        return elapsed_ns >= ended * cycle_ns

    def _finish(self, measurements: int) -> None:
        self._measurements += measurements
        temperature, pressure, humidity = self.counts(self._measurements - 1)
        times = self._oversampling
        pressure = _resolved(pressure, times[1]) if times[1] else 0x80000
        humidity = humidity if times[2] else 0x8000
        self._registers[0xF7:0xFA] = (pressure << 4).to_bytes(3, "big")
        self._registers[0xFA:0xFD] = (_resolved(temperature, times[0]) << 4).to_bytes(3, "big")
        self._registers[0xFD:0xFF] = humidity.to_bytes(2, "big")

    def _fill_calibration(self) -> None:
        values = (value & 0xFFFF for value in self._CALIBRATION)
        self._registers[0x88:0xA0] = b"".join(value.to_bytes(2, "little") for value in values)
        self._registers[0xA1] = self._H1
        self._registers[0xE1:0xE3] = self._H2.to_bytes(2, "little")
        self._registers[0xE3] = self._H3
        self._registers[0xE4] = self._H4 >> 4
        self._registers[0xE5] = (self._H4 & 15) | (self._H5 & 15) << 4
        self._registers[0xE6] = self._H5 >> 4
        self._registers[0xE7] = self._H6


def _resolved(counts: int, oversampling: int) -> int:
    """A value has 16 bits and one more for each doubling; section 3.4. Full scale stays."""
    unused = 5 - oversampling.bit_length()
    return counts if counts == 0xFFFFF else counts >> unused << unused


Signal = Callable[[np.ndarray], np.ndarray]


def _swaying(time_s: np.ndarray) -> np.ndarray:
    """A board that lies flat and sways a little, at 25 °C."""
    phase = time_s[:, None] * np.array([7.1, 5.3, 11.9, 0.1, 3.7, 9.3, 6.1]) * 2 * np.pi
    level = np.array([0.0, 0.0, 1.0, 25.0, 0.0, 0.0, 0.0])
    swing = np.array([0.05, 0.05, 0.02, 0.1, 20.0, 15.0, 5.0])
    values: np.ndarray = level + swing * np.sin(phase)
    return values


class FakeMpu6050:
    """An MPU-6050 with its FIFO; its low-pass filter sets the rate but smooths nothing.

    Args:
        clock: Samples are taken by it.
        signal: Values at times since the part woke, s, shape (n,): acceleration of three
            axes in g, °C, rotation of three axes in °/s; shape (n, 7).
        identity: What WHO_AM_I says.

    Attributes:
        signal: As above; may be changed at any time.
        speed: How much faster than promised the part's oscillator runs.
    """

    _FIFO_BYTES = 1024
    _BITS = (0x08, 0x08, 0x08, 0x80, 0x40, 0x20, 0x10)

    def __init__(self, clock: Clock, signal: Signal = _swaying, *, identity: int = 0x68) -> None:
        self.signal = signal
        self.speed = 1.0
        self._clock = clock
        self._identity = identity
        self.power_on()

    def power_on(self) -> None:
        """Start asleep; registers 107 and 117 alone are not 0."""
        self._registers = bytearray(128)
        self._registers[0x6B], self._registers[0x75] = 0x40, self._identity
        self._fifo = bytearray()
        self._last_read = bytes(1)
        self._pointer = 0
        self._restart_sampling()

    def write(self, content: bytes) -> None:
        """Take a register and values for it and the following ones."""
        self._sample()
        self._pointer = content[0]
        for register, value in enumerate(content[1:], start=content[0]):
            self._set(register, value)

    def read(self, count: int) -> bytes:
        """Return registers from the pointer on; the FIFO's does not move on."""
        self._sample()
        if self._pointer == 0x74:
            return self._from_fifo(count)
        return bytes(self._get(self._pointer + i) for i in range(count))

    def _set(self, register: int, value: int) -> None:
        if register == 0x6B and value & 0x80:
            self.power_on()
            return
        if register == 0x6A and value & 0x44 == 0x04:
            self._fifo.clear()  # register 106: only while the FIFO is off
        if register == 0x6A:
            value &= 0xF8  # the reset bits clear themselves
        if register not in (0x3A, 0x72, 0x73, 0x75):
            self._registers[register] = value
        if register in (0x19, 0x1A, 0x6B):
            self._restart_sampling()

    def _get(self, register: int) -> int:
        if register == 0x72:
            self._registers[0x72:0x74] = len(self._fifo).to_bytes(2, "big")
        value = self._registers[register]
        if register == 0x3A:
            self._registers[0x3A] = 0  # register 58: reading clears it
        return value

    def _from_fifo(self, count: int) -> bytes:
        taken = bytes(self._fifo[:count])
        del self._fifo[:count]
        self._last_read = taken[-1:] or self._last_read
        return taken + self._last_read * (count - len(taken))  # register 116: when empty

    def _restart_sampling(self) -> None:
        self._origin_ns = self._clock.monotonic_ns()
        self._sampled = 0

    @property
    def _rate_hz(self) -> float:
        base_hz = 8000.0 if self._registers[0x1A] & 7 in (0, 7) else 1000.0
        return self.speed * base_hz / (1 + self._registers[0x19])

    def _sample(self) -> None:
        """Take the samples that have become due since the last access."""
        if self._registers[0x6B] & 0x40:
            return
        elapsed_ns = self._clock.monotonic_ns() - self._origin_ns
        due = int(elapsed_ns * self._rate_hz / 1e9)
        # More than fit into the FIFO need not be made.
        first = max(self._sampled, due - self._FIFO_BYTES)
        if due > self._sampled:
            numbers = np.arange(first + 1, due + 1)
            self._keep(self._counted(numbers / self._rate_hz))
            self._sampled = due

    def _counted(self, time_s: np.ndarray) -> np.ndarray:
        accel = 16384 >> (self._registers[0x1C] >> 3 & 3)
        gyro = 131.072 / (1 << (self._registers[0x1B] >> 3 & 3))
        values = self.signal(time_s) - np.array([0, 0, 0, 36.53, 0, 0, 0])
        counts = np.rint(values * np.array([accel] * 3 + [340.0] + [gyro] * 3))
        limited: np.ndarray = np.clip(counts, -32768, 32767).astype(">i2")
        return limited

    def _keep(self, counts: np.ndarray) -> None:
        self._registers[0x3B:0x49] = counts[-1].tobytes()
        self._registers[0x3A] |= 0x01
        if not self._registers[0x6A] & 0x40:
            return
        held = [i for i, bit in enumerate(self._BITS) if self._registers[0x23] & bit]
        self._fifo += np.ascontiguousarray(counts[:, held]).tobytes()
        excess = len(self._fifo) - self._FIFO_BYTES
        if excess > 0:
            del self._fifo[:excess]  # register 116: the oldest bytes are lost
            self._registers[0x3A] |= 0x10
