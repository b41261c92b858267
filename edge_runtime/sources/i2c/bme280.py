"""The BME280: temperature, pressure and relative humidity.

Register addresses and times: Bosch Sensortec, BME280 data sheet BST-BME280-DS002,
revision 1.6; sections are named where they are used.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.i2c.bus import BusConfig, Connect, Part, transfer_s
from edge_runtime.sources.i2c.compensation import Calibration, compensate
from edge_runtime.sources.i2c.readings import CELSIUS, Channels, Unit, units_of
from edge_runtime.sources.i2c.source import Block, Live, PartSource
from edge_runtime.sources.live import Polling, Stamps
from edge_runtime.sources.suspects import Frozen, Patience, note_suspects
from edge_runtime.spec import StreamSpec

__all__ = ["CHANNELS", "Bme280Config", "Bme280Source", "Oversampling", "measurement_s"]

Times = Literal[1, 2, 4, 8, 16]

CHANNELS: Channels = {
    "temperature": CELSIUS,
    "pressure": {"hPa": Unit(0.01), "mbar": Unit(0.01), "Pa": Unit(1.0), "kPa": Unit(0.001)},
    "humidity": {"%": Unit(1.0)},
}

# Section 5.4: memory map.
_ID, _STATUS, _CTRL_MEAS, _CTRL_HUM, _CONFIG = 0xD0, 0xF3, 0xF4, 0xF2, 0xF5
_LOW_CALIBRATION, _HIGH_CALIBRATION = (0x88, 26), (0xE1, 7)
_CHIP_ID = 0x60
_OTHER_PARTS = {0x56: "BMP280", 0x57: "BMP280", 0x58: "BMP280", 0x61: "BME680"}
_MEASURING, _COPYING = 0x08, 0x01
_SLEEP, _FORCED, _NORMAL = 0, 1, 3
_OVERSAMPLING_BITS = {0: 0, 1: 1, 2: 2, 4: 3, 8: 4, 16: 5}
_FILTER_BITS = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4}
_STANDBY_BITS = {0.0005: 0, 0.01: 6, 0.02: 7, 0.0625: 1, 0.125: 2, 0.25: 3, 0.5: 4, 1.0: 5}
_STANDBY_TOLERANCE = 0.25  # section 1: Δt_standby, largest
# From ctrl_hum to the last byte of humidity: settings and values in one transfer.
_BURST = (_CTRL_HUM, 13)
_MOST_COUNTS = np.array([0xFFFFF, 0xFFFFF, 0xFFFF])
# A part may take longer than it should until it counts as hung.
_PATIENCE = 4.0
_AGAIN_NS = 2_000_000
_BLOCK_S = 0.1


class Bme280Config(BusConfig, frozen=True, kw_only=True):
    """Options of a BME280.

    Attributes:
        address: 0x76 with SDO at ground, 0x77 with SDO at the supply.
        mode: ``forced`` measures once for every sample; ``normal`` lets the part measure
            by itself, at least as often as it is read.
        temperature_oversampling: Readings averaged by the part.
        pressure_oversampling: As above.
        humidity_oversampling: As above.
        filter: Coefficient of the filter of temperature and pressure; 1 for none.
        frozen_s: The same bytes for so long are a fault; None never counts.
    """

    address: Literal[0x76, 0x77] = 0x76
    mode: Literal["forced", "normal"] = "forced"
    temperature_oversampling: Times = 1
    pressure_oversampling: Times = 1
    humidity_oversampling: Times = 1
    filter: Times = 1
    frozen_s: Patience = 60.0

    @property
    def declared_channels(self) -> tuple[str, ...]:
        """Channels of the part, under its own names and the model's."""
        return (*self.channels, *CHANNELS)


class Oversampling(NamedTuple):
    """How often each quantity is measured for one reading; 0 leaves it out."""

    temperature: int
    pressure: int
    humidity: int


def measurement_s(times: Oversampling) -> float:
    """Return the longest time that one measurement takes; source: section 9.1."""
    optional_ms = sum(2.3 * n + 0.575 for n in (times.pressure, times.humidity) if n)
    return (1.25 + 2.3 * times.temperature + optional_ms) / 1000


class Bme280Source(PartSource):
    """Reads temperature, pressure and relative humidity of a BME280 on an I2C bus.

    Samples lie on an even grid of time; quantities that no channel needs are not
    measured. They are float32; a value at the end of its scale is delivered as it is and
    counted as ``saturated``, a reading that stands still as ``frozen``.

    Args:
        config: Options.
        clock: Tells time.
        connect: Opens the bus; for stand-ins.

    Raises:
        MissingExtra: smbus2 is not installed.
    """

    Config = Bme280Config

    def __init__(
        self, config: Bme280Config, *, clock: Clock | None = None, connect: Connect | None = None
    ) -> None:
        part = Part("bme280", config.bus, config.address, connect)
        super().__init__(
            part,
            lambda need, live: _Reader(config, config.as_the_part(need), live),
            clock=clock,
        )


class _Plan(NamedTuple):
    """What the registers are set to, and how long one measurement takes."""

    ctrl_hum: int
    config: int
    ctrl_meas: int
    measurement_s: float


def _planned(config: Bme280Config, times: Oversampling, rate_hz: float, where: str) -> _Plan:
    is_normal = config.mode == "normal"
    longest_s = measurement_s(times)
    pause_s = min(_STANDBY_BITS) * (1 + _STANDBY_TOLERANCE) if is_normal else 0.0
    busy_s = transfer_s(_BURST[1], config.speed_hz)
    _check_rate(rate_hz, longest_s + max(pause_s, busy_s), where)
    # A part that has lost power reads 0 here: the standby time, which forced mode
    # ignores, makes sure that this can be told from what was set.
    standby_s = _standby_s(1 / rate_hz - longest_s) if is_normal else max(_STANDBY_BITS)
    bits = [_OVERSAMPLING_BITS[n] for n in times]
    return _Plan(
        ctrl_hum=bits[2],
        config=_STANDBY_BITS[standby_s] << 5 | _FILTER_BITS[config.filter] << 2,
        ctrl_meas=bits[0] << 5 | bits[1] << 2 | (_NORMAL if is_normal else _SLEEP),
        measurement_s=longest_s,
    )


def _standby_s(room_s: float) -> float:
    """Return the longest pause after which the next measurement still comes in time."""
    fitting = (s for s in _STANDBY_BITS if s * (1 + _STANDBY_TOLERANCE) <= room_s)
    return max(fitting, default=min(_STANDBY_BITS))


def _check_rate(rate_hz: float, least_s: float, where: str) -> None:
    if rate_hz * least_s > 1:
        raise ConfigError(
            f"the model needs {rate_hz:g} Hz",
            where=where,
            expected=f"at most {math.floor(10 / least_s) / 10:g} Hz with this oversampling and bus",
            remedy="Lower an oversampling, raise the clock of the bus, or convert the "
            "model for a lower rate.",
        )


class _Reading(NamedTuple):
    """Counts of temperature, pressure and humidity, shape (3,), and when they were asked for."""

    counts: np.ndarray
    stamps: Stamps


class _Reader:
    """Measures one sample after the other; see `Bme280Source`."""

    def __init__(self, config: Bme280Config, need: StreamSpec, live: Live) -> None:
        self._live, self._part = live, live.part
        self._is_forced = config.mode == "forced"
        self._scale = np.array(units_of(need, CHANNELS, live.part.where))
        self._columns = [list(CHANNELS).index(name) for name in need.names]
        times = _oversampling(config, need)
        self._in_use = [i for i, count in enumerate(times) if count]
        self._plan = _planned(config, times, need.rate_hz, live.part.where)
        self._calibration = self._set_up()
        self._block = max(1, int(need.rate_hz * _BLOCK_S))
        self._frozen = Frozen(config.frozen_s, need.rate_hz)
        self._readings: list[_Reading] = []
        self._asked: Stamps | None = None
        self._failure: SourceError | None = None
        now_ns = live.clock.monotonic_ns()
        self._ready_ns = now_ns + round(self._plan.measurement_s * 1e9)
        self._give_up_ns = 0
        live.timeline.begin(need.rate_hz)
        live.timeline.lose_until(now_ns - need.period_ns)
        self._polling = Polling(need.rate_hz, live.clock, live.part.closed)

    def read(self, deadline_ns: int) -> Block | None:
        """Return the readings of 100 ms, or one; what came before a failure is delivered."""
        if self._failure is not None:
            raise self._failure
        try:
            while self._step(deadline_ns):
                if len(self._readings) >= self._block:
                    return self._take()
        except SourceError as error:
            self._note(error)
            return self._take()
        return None

    def _note(self, error: SourceError) -> None:
        """Keep a failure for the next read while there are readings from before it."""
        self._live.health.lost(0 if self._asked is None else 1)
        self._failure = error
        if not self._readings:
            raise error

    # --- setting up -----------------------------------------------------------------

    def _set_up(self) -> Calibration:
        part, plan = self._part, self._plan
        self._check_id(part.open(_ID))
        calibration = self._read_calibration()
        # Section 5.4.6: config is only sure to be taken in sleep mode;
        # section 5.4.3: ctrl_hum is taken when ctrl_meas is written.
        part.write(_CTRL_MEAS, _SLEEP)
        part.write(_CTRL_HUM, plan.ctrl_hum)
        part.write(_CONFIG, plan.config)
        part.write(_CTRL_MEAS, plan.ctrl_meas)
        self._check_settings(part.read(*_BURST))
        return calibration

    def _check_id(self, found: int) -> None:
        if found != _CHIP_ID:
            name = _OTHER_PARTS.get(found, "some other part")
            raise self._part.error(
                f"the chip id (register 0xD0) is 0x{found:02x}: {name}",
                expected="0x60, a BME280",
                remedy="Correct bus and address, or replace the board: a BMP280 looks the "
                "same but has no humidity.",
            )

    def _read_calibration(self) -> Calibration:
        """Read the trimming values twice: nothing else would show a flipped bit."""
        if self._part.read(_STATUS, 1)[0] & _COPYING:
            raise self._part.error("the part is still starting", remedy="Open it again.")
        first, second = (self._calibration_bytes() for _ in range(2))
        calibration = Calibration.parse(*first)
        if first != second or not calibration.is_plausible:
            raise self._part.error(
                "the calibration reads differently each time"
                if first != second
                else "the calibration is all zeros or ones",
                expected="the trimming values of the part",
                remedy="Check wiring and pull-ups; use a shorter cable or a slower clock.",
            )
        return calibration

    def _calibration_bytes(self) -> tuple[bytes, bytes]:
        return self._part.read(*_LOW_CALIBRATION), self._part.read(*_HIGH_CALIBRATION)

    def _has_settings(self, burst: bytes) -> bool:
        """A measurement in forced mode ends in sleep, so this holds in both modes."""
        plan = self._plan
        settings = (burst[0] & 0x07, burst[2], burst[3] & 0xFD)
        return settings == (plan.ctrl_hum, plan.ctrl_meas, plan.config)

    def _check_settings(self, burst: bytes) -> None:
        if not self._has_settings(burst):
            plan = self._plan
            raise self._part.error(
                f"ctrl_hum, ctrl_meas and config are 0x{burst[0]:02x}, 0x{burst[2]:02x} "
                f"and 0x{burst[3]:02x}",
                expected=f"0x{plan.ctrl_hum:02x}, 0x{plan.ctrl_meas:02x} and "
                f"0x{plan.config:02x}, as they were set",
                remedy="The part has lost power, or the bus flips bits: check supply and wiring.",
            )

    # --- reading --------------------------------------------------------------------

    def _step(self, deadline_ns: int) -> bool:
        """Bring a measurement forward; False if there is nothing to do in time."""
        if self._asked is None:
            missed = self._polling.wait(self._live.left_s(deadline_ns))
            if missed is None:
                return False
            self._asked = self._ask(missed)
        if not self._is_ready(deadline_ns):
            return False
        self._look(self._asked)
        return True

    def _ask(self, missed: int) -> Stamps:
        """Begin a measurement; the time of the sample is the moment at which it is asked for."""
        now_ns = self._live.clock.monotonic_ns()
        if self._is_forced:
            self._part.write(_CTRL_MEAS, self._plan.ctrl_meas | _FORCED)
            self._ready_ns = now_ns + round(self._plan.measurement_s * 1e9)
            self._give_up_ns = now_ns + round(_PATIENCE * self._plan.measurement_s * 1e9)
        return self._live.timeline.stamp(1, now_ns, lost=missed)

    def _is_ready(self, deadline_ns: int) -> bool:
        """Wait until the measurement must be complete, but no longer than until the deadline."""
        left_s = self._live.left_s(self._ready_ns)
        if left_s > 0:
            self._part.closed.wait(min(left_s, self._live.left_s(deadline_ns)))
        return self._part.is_open and self._live.left_s(self._ready_ns) <= 0

    def _look(self, asked: Stamps) -> None:
        """Read settings, status and values at once, and keep them if they are good."""
        burst = self._part.read(*_BURST)
        if self._is_forced and burst[1] & _MEASURING:
            self._wait_on()
            return
        if not self._has_settings(burst):
            burst = self._part.read(*_BURST)
            self._check_settings(burst)
            self._live.health.fault("misread")
        self._readings.append(_Reading(_counts(burst[5:]), asked))
        self._asked = None

    def _wait_on(self) -> None:
        """A measurement takes longer than the data sheet allows."""
        now_ns = self._live.clock.monotonic_ns()
        if now_ns > self._give_up_ns:
            raise self._part.error(
                "a measurement does not end",
                expected=f"a result within {1000 * self._plan.measurement_s:.1f} ms",
                remedy="Switch the power of the part off and on.",
            )
        self._ready_ns = now_ns + _AGAIN_NS

    def _take(self) -> Block:
        readings, self._readings = self._readings, []
        counts = np.stack([reading.counts for reading in readings])
        values = compensate(counts, self._calibration)
        quality = self._noted(counts, values, np.array([one.stamps.lost for one in readings]))
        samples = values[:, self._columns] * self._scale[:, 0] + self._scale[:, 1]
        times = np.concatenate([reading.stamps.time_ns for reading in readings])
        clock = readings[-1].stamps.clock
        return Block(times, samples.astype(np.float32), clock, None, quality)

    def _noted(self, counts: np.ndarray, values: np.ndarray, lost: np.ndarray) -> np.ndarray | None:
        """Count what is suspect, and return the masks."""
        at_end = (counts == 0) | (counts == _MOST_COUNTS)
        at_end[:, 2] |= (values[:, 2] == 0.0) | (values[:, 2] == 100.0)
        return note_suspects(
            self._live.health,
            len(counts),
            saturated=at_end[:, self._in_use].any(axis=1),
            frozen=self._frozen.find(counts[:, self._in_use]),
            lost=lost,
        )


def _oversampling(config: Bme280Config, need: StreamSpec) -> Oversampling:
    """Temperature is always measured: the others are compensated with it."""
    return Oversampling(
        config.temperature_oversampling,
        config.pressure_oversampling if "pressure" in need.names else 0,
        config.humidity_oversampling if "humidity" in need.names else 0,
    )


def _counts(burst: bytes) -> np.ndarray:
    """Return temperature, pressure and humidity, shape (3,); source: section 5.4.7 to 5.4.9."""
    pressure = int.from_bytes(burst[0:3], "big") >> 4
    temperature = int.from_bytes(burst[3:6], "big") >> 4
    return np.array([temperature, pressure, int.from_bytes(burst[6:8], "big")])
