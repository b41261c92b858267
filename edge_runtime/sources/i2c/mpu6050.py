"""The MPU-6050: acceleration, rotation and temperature, through its FIFO.

Registers: InvenSense, MPU-6000/MPU-6050 Register Map RM-MPU-6000A-00, revision 4.2;
other numbers: Product Specification PS-MPU-6000A-00, revision 3.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.ports import Clock
from edge_runtime.sources.i2c.bus import BusConfig, Connect, Part, transfer_s
from edge_runtime.sources.i2c.readings import CELSIUS, Channels, Unit, units_of
from edge_runtime.sources.i2c.source import Block, Live, PartSource
from edge_runtime.sources.live import Polling
from edge_runtime.sources.suspects import Frozen, Patience, note_suspects
from edge_runtime.spec import StreamSpec

__all__ = ["CHANNELS", "Mpu6050Config", "Mpu6050Source"]

CHANNELS = ("accel_x", "accel_y", "accel_z", "temperature", "gyro_x", "gyro_y", "gyro_z")
"""In the order in which the FIFO holds them: that of their registers, 59 to 72."""

_SMPLRT_DIV, _CONFIG, _GYRO_CONFIG, _ACCEL_CONFIG = 0x19, 0x1A, 0x1B, 0x1C  # 25 to 28
_FIFO_EN, _INT_ENABLE, _INT_STATUS = 0x23, 0x38, 0x3A  # 35, 56, 58
_USER_CTRL, _PWR_MGMT_1, _PWR_MGMT_2 = 0x6A, 0x6B, 0x6C  # 106 to 108
_FIFO_COUNT, _FIFO_R_W, _WHO_AM_I = 0x72, 0x74, 0x75  # 114, 116, 117
_ID = 0x68
_OTHER_PARTS = {0x70: "MPU-6500", 0x71: "MPU-9250", 0x73: "MPU-9255", 0x98: "ICM-20689"}
_FIFO_BITS = (0x08, 0x08, 0x08, 0x80, 0x40, 0x20, 0x10)  # register 35, in order of CHANNELS
_OVERFLOW = 0x10  # registers 56 and 58
_FIFO_RESET, _FIFO_ON = 0x04, 0x40  # register 106
_SLEEP, _CLOCK_OF_GYRO_X = 0x40, 0x01  # register 107, which recommends a gyroscope's clock

_ACCEL_RANGES = {2: 0, 4: 1, 8: 2, 16: 3}
_GYRO_RANGES = {250: 0, 500: 1, 1000: 2, 2000: 3}
_FILTERS = {184: 1, 94: 2, 44: 3, 21: 4, 10: 5, 5: 6}  # register 26: accelerometer, Hz
# With the filter on, the part samples 1000 times a second: registers 25 and 26.
_BASE_HZ, _MOST_DIVIDED = 1000.0, 256
_RATE_TOLERANCE = 1e-3
_FULL_SCALE = 32768.0
_STANDARD_GRAVITY = 9.80665  # m/s²
_TEMPERATURE = Unit(1 / 340, 36.53)  # registers 65 and 66
_COUNTS = Unit(1.0)

_FIFO_BYTES = 1024
# Longer than the gyroscope takes to start, and the filter to settle: specification 6.1.
_SETTLE_NS = 100_000_000
_BLOCK_S = 0.05
# What a block may fill of the FIFO: the rest bears a scheduler that is late.
_SHARE_OF_FIFO = 4
# How much of the bus one part may take; the rest is for others and for pauses.
_SHARE_OF_BUS = 0.8
_SILENT_S, _SILENT_PERIODS = 0.5, 10
_FASTEST = 1.2  # no oscillator is off by so much


class Mpu6050Config(BusConfig, frozen=True, kw_only=True):
    """Options of an MPU-6050.

    Attributes:
        address: 0x68 with AD0 at ground, 0x69 with AD0 at the supply.
        accel_range_g: Full scale of the accelerometer, in both directions.
        gyro_range_dps: Full scale of the gyroscope, °/s, in both directions.
        bandwidth_hz: Corner of the part's low-pass filter; None takes the widest
            below half the sample rate.
        frozen_s: The same bytes for so long are a fault; None never counts.
    """

    address: Literal[0x68, 0x69] = 0x68
    accel_range_g: Literal[2, 4, 8, 16] = 2
    gyro_range_dps: Literal[250, 500, 1000, 2000] = 250
    bandwidth_hz: Literal[5, 10, 21, 44, 94, 184] | None = None
    frozen_s: Patience = 1.0

    @property
    def declared_channels(self) -> tuple[str, ...]:
        """Channels of the part, under its own names and the model's."""
        return (*self.channels, *CHANNELS)

    @property
    def quantities(self) -> Channels:
        """Channels with their units; ``LSB`` is what the part counts."""
        g = self.accel_range_g / _FULL_SCALE
        rotation = self.gyro_range_dps / _FULL_SCALE
        accel = {"g": Unit(g), "m/s²": Unit(g * _STANDARD_GRAVITY), "LSB": _COUNTS}
        gyro = {"°/s": Unit(rotation), "rad/s": Unit(math.radians(rotation)), "LSB": _COUNTS}
        of_kind = {"accel": accel, "gyro": gyro, "temperature": _temperature()}
        return {name: of_kind[name.partition("_")[0]] for name in CHANNELS}


def _temperature() -> Mapping[str, Unit]:
    factor, offset = _TEMPERATURE
    units = {name: Unit(factor, offset + unit.offset) for name, unit in CELSIUS.items()}
    return {**units, "LSB": _COUNTS}


class Mpu6050Source(PartSource):
    """Reads acceleration, rotation and temperature of an MPU-6050 on an I2C bus.

    Samples come as the part's own clock paces them. They are int16 where every channel
    is wanted in LSB, else float32. A value at full
    scale is delivered as it is and counted as ``saturated``, a reading that stands still
    as ``frozen``. When the FIFO overflows, what it held is given up: ``fifo_overflow`` is
    counted, and the samples as lost.

    Args:
        config: Options.
        clock: Tells time.
        connect: Opens the bus; for stand-ins.

    Raises:
        MissingExtra: smbus2 is not installed.
    """

    Config = Mpu6050Config

    def __init__(
        self, config: Mpu6050Config, *, clock: Clock | None = None, connect: Connect | None = None
    ) -> None:
        part = Part("mpu6050", config.bus, config.address, connect)
        super().__init__(
            part,
            lambda need, live: _Reader(config, config.as_the_part(need), live),
            clock=clock,
        )


class _Layout(NamedTuple):
    """What one sample in the FIFO holds.

    Attributes:
        fifo_en: What register 35 is set to.
        columns: Place of each needed channel in a sample.
        values: Values in a sample, two bytes each.
    """

    fifo_en: int
    columns: list[int]
    values: int

    @classmethod
    def of(cls, need: StreamSpec) -> _Layout:
        """Choose what the FIFO must hold; the three axes of acceleration come together."""
        fifo_en = 0
        for name in need.names:
            fifo_en |= _FIFO_BITS[CHANNELS.index(name)]
        held = [name for name, bit in zip(CHANNELS, _FIFO_BITS, strict=True) if fifo_en & bit]
        return cls(fifo_en, [held.index(name) for name in need.names], len(held))

    @property
    def size(self) -> int:
        """Bytes of a sample."""
        return 2 * self.values


class _Reader:
    """Empties the FIFO block by block; see `Mpu6050Source`."""

    def __init__(self, config: Mpu6050Config, need: StreamSpec, live: Live) -> None:
        self._live, self._part = live, live.part
        where = live.part.where
        self._units = units_of(need, config.quantities, where)
        self._limits = _limits(need)
        self._layout = _Layout.of(need)
        divider = _divider(need.rate_hz, where)
        self._rate_hz = _BASE_HZ / divider
        _check_bus(divider, self._layout.size, config.speed_hz, where)
        self._set_up(_settings(config, divider, self._layout.fifo_en))
        self._frozen = Frozen(config.frozen_s, self._rate_hz)
        self._silent_s = max(_SILENT_S, _SILENT_PERIODS / self._rate_hz)
        self._settled_ns: int | None = live.clock.monotonic_ns() + _SETTLE_NS
        live.timeline.begin(self._rate_hz)
        polls_hz = self._rate_hz / _samples_a_block(self._rate_hz, self._layout.size)
        self._polling = Polling(polls_hz, live.clock, live.part.closed)

    def read(self, deadline_ns: int) -> Block | None:
        """Return what has come since the last read."""
        while self._polling.wait(self._live.left_s(deadline_ns)) is not None:
            now_ns = self._live.clock.monotonic_ns()
            if self._settled_ns is None:
                block = self._poll(now_ns)
                if block is not None:
                    return block
            elif now_ns >= self._settled_ns:
                self._settled_ns = None
                self._restart_fifo()
        return None

    # --- setting up -----------------------------------------------------------------

    def _set_up(self, settings: Mapping[int, int]) -> None:
        self._check_id(self._part.open(_WHO_AM_I))
        for register, value in settings.items():
            self._part.write(register, value)
        for register, value in settings.items():
            found = self._part.read(register, 1)[0]
            if found != value:
                raise self._part.error(
                    f"register 0x{register:02x} is 0x{found:02x}",
                    expected=f"0x{value:02x}, as it was set",
                    remedy="Check supply and wiring; use a shorter cable or a slower clock.",
                )

    def _check_id(self, found: int) -> None:
        if found != _ID:
            name = _OTHER_PARTS.get(found, "some other part")
            raise self._part.error(
                f"WHO_AM_I (register 0x75) is 0x{found:02x}: {name}",
                expected="0x68, an MPU-6050",
                remedy="Correct bus and address, or replace the board.",
            )

    # --- reading --------------------------------------------------------------------

    def _restart_fifo(self) -> None:
        """Empty the FIFO and begin with a whole sample; register 106 says in which order."""
        for value in (0, _FIFO_RESET, _FIFO_ON):
            self._part.write(_USER_CTRL, value)
        self._part.read(_INT_STATUS, 1)  # reading clears what happened before
        self._live.timeline.lose_until(self._live.clock.monotonic_ns())

    def _poll(self, now_ns: int) -> Block | None:
        samples = self._samples_in_fifo(now_ns)
        if samples == 0:
            self._check_alive(now_ns)
            return None
        burst = self._part.read(_FIFO_R_W, samples * self._layout.size)
        # Asked last, so that an overflow while the burst was read is noticed too: after
        # one, the bytes begin anywhere in a sample.
        if self._part.read(_INT_STATUS, 1)[0] & _OVERFLOW:
            self._live.health.fault("fifo_overflow")
            self._restart_fifo()
            return None
        return self._block(burst, now_ns)

    def _samples_in_fifo(self, now_ns: int) -> int:
        """Return how many whole samples wait; a number that cannot be is asked for again."""
        count = self._fifo_count()
        elapsed_s = self._live.timeline.since_last_s(now_ns)
        most = (elapsed_s * self._rate_hz * _FASTEST + 2) * self._layout.size
        if count > min(most, _FIFO_BYTES):
            again = self._fifo_count()
            # It may have grown by a sample or two between the questions, but not shrunk.
            if not count <= again <= _FIFO_BYTES:
                self._live.health.fault("misread")
            count = again
        if count > _FIFO_BYTES:
            raise self._part.error(
                f"the FIFO counts {count} bytes",
                expected=f"at most {_FIFO_BYTES}",
                remedy="The part has no power, or SDA is held high: check supply and wiring.",
            )
        return count // self._layout.size

    def _fifo_count(self) -> int:
        return int.from_bytes(self._part.read(_FIFO_COUNT, 2), "big")

    def _check_alive(self, now_ns: int) -> None:
        if self._live.timeline.since_last_s(now_ns) > self._silent_s:
            power = self._part.read(_PWR_MGMT_1, 1)[0]
            state = "asleep: it has lost power" if power & _SLEEP else "awake"
            raise self._part.error(
                f"no sample came for {self._silent_s:g} s; the part is {state}",
                expected=f"{self._rate_hz:g} samples a second",
                remedy="Check the supply; the source sets the part up when it is opened again.",
            )

    def _block(self, burst: bytes, now_ns: int) -> Block:
        raw = np.frombuffer(burst, ">i2").reshape(-1, self._layout.values)
        counts = raw[:, self._layout.columns]
        at_end = (counts == -self._limits - 1) | (counts == self._limits)
        stamps = self._live.timeline.stamp(len(raw), now_ns)
        quality = note_suspects(
            self._live.health,
            len(raw),
            saturated=at_end.any(axis=1),
            frozen=self._frozen.find(raw),
            lost=stamps.lost,
        )
        return Block(stamps.time_ns, self._scaled(counts), stamps.clock, stamps.step_ns, quality)

    def _scaled(self, counts: np.ndarray) -> np.ndarray:
        if all(unit == _COUNTS for unit in self._units):
            return counts.astype(np.int16)
        scale = np.array(self._units, np.float32)
        scaled: np.ndarray = counts.astype(np.float32) * scale[:, 0] + scale[:, 1]
        return scaled


def _settings(config: Mpu6050Config, divider: int, fifo_en: int) -> Mapping[int, int]:
    """Return register → value in the order of writing: the part must be awake first."""
    bandwidth_hz: int | None = config.bandwidth_hz
    if bandwidth_hz is None:
        below = [hz for hz in _FILTERS if 2 * hz <= _BASE_HZ / divider]
        bandwidth_hz = max(below, default=min(_FILTERS))
    return {
        _PWR_MGMT_1: _CLOCK_OF_GYRO_X,
        _PWR_MGMT_2: 0,
        _USER_CTRL: 0,
        _SMPLRT_DIV: divider - 1,
        _CONFIG: _FILTERS[bandwidth_hz],
        _GYRO_CONFIG: _GYRO_RANGES[config.gyro_range_dps] << 3,
        _ACCEL_CONFIG: _ACCEL_RANGES[config.accel_range_g] << 3,
        _INT_ENABLE: _OVERFLOW,
        _FIFO_EN: fifo_en,
    }


def _limits(need: StreamSpec) -> np.ndarray:
    """Return the largest count of each channel; the thermometer never comes near its own."""
    return np.array([1 << 20 if name == "temperature" else 32767 for name in need.names])


def _divider(rate_hz: float, where: str) -> int:
    """Return by what the part divides 1000 Hz; source: register 25."""
    divider = min(max(round(_BASE_HZ / rate_hz), 1), _MOST_DIVIDED)
    if not math.isclose(_BASE_HZ / divider, rate_hz, rel_tol=_RATE_TOLERANCE):
        raise ConfigError(
            f"the model needs {rate_hz:g} Hz",
            where=where,
            expected=f"1000 Hz divided by 1 to 256, such as {_nearest(rate_hz)}",
            remedy="Convert the model for one of these rates.",
        )
    return divider


def _nearest(rate_hz: float) -> str:
    exact = _BASE_HZ / rate_hz
    dividers = {min(max(n, 1), _MOST_DIVIDED) for n in (math.floor(exact), math.ceil(exact))}
    return " or ".join(f"{_BASE_HZ / divider:.6g} Hz" for divider in sorted(dividers, reverse=True))


def _samples_a_block(rate_hz: float, size: int) -> int:
    """Return how many samples of ``size`` bytes are read at once: 50 ms, or what is safe."""
    room = _FIFO_BYTES // size // _SHARE_OF_FIFO
    return max(1, min(int(rate_hz * _BLOCK_S), room))


def _busy(divider: int, size: int, speed_hz: int) -> float:
    """Return which part of the time the bus is busy: count, samples and status of each block."""
    rate_hz = _BASE_HZ / divider
    samples = _samples_a_block(rate_hz, size)
    block_s = sum(transfer_s(count, speed_hz) for count in (2, samples * size, 1))
    return block_s * rate_hz / samples


def _check_bus(divider: int, size: int, speed_hz: int, where: str) -> None:
    if _busy(divider, size, speed_hz) <= _SHARE_OF_BUS:
        return
    slower = range(divider, _MOST_DIVIDED + 1)
    best = next(n for n in slower if _busy(n, size, speed_hz) <= _SHARE_OF_BUS)
    raise ConfigError(
        f"{_BASE_HZ / divider:g} samples of {size} bytes a second are too many for a bus at "
        f"{speed_hz / 1000:g} kHz",
        where=where,
        expected=f"at most {_BASE_HZ / best:.6g} Hz",
        remedy="Run the bus at 400 kHz (Raspberry Pi: dtparam=i2c_arm_baudrate=400000), or "
        "convert the model for fewer channels or a lower rate.",
    )
