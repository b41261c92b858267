"""A BME280 on a fake bus: settings, values, times and everything that can go wrong."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.quality import Quality, joined_masks
from edge_runtime.sources.i2c.bme280 import Bme280Config, Bme280Source, Oversampling, measurement_s
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.i2c import FakeBme280, FakeBus
from edge_runtime.types import Frame

Needs = Callable[..., StreamSpec]
Make = Callable[..., Bme280Source]
ALL = ("temperature", "pressure", "humidity")
EXAMPLE = (519_888, 415_148, 27_000)


@pytest.fixture
def make(bus: FakeBus, clock: FakeClock) -> Make:
    """Give a maker of sources on the fake bus."""

    def make(**options: Any) -> Bme280Source:
        return Bme280Source(Bme280Config(**options), clock=clock, connect=bus.connect)

    return make


def _read(source: Bme280Source, clock: FakeClock, step_s: float = 0.005) -> Frame:
    """Let time pass until a block comes."""
    for _ in range(1000):
        frame = source.read(0.0)
        if frame is not None:
            return frame
        clock.advance(step_s)
    raise AssertionError("no frame came")


def test_channels_come_in_the_order_and_units_of_the_model(
    make: Make, needs: Needs, clock: FakeClock, bme280: FakeBme280
) -> None:
    """The data sheet's example, at full resolution: 25.08 °C and 1006.53 hPa."""
    bme280.counts = lambda _: EXAMPLE
    source = make(temperature_oversampling=16, pressure_oversampling=16)

    source.open("air", needs(1.0, "pressure", "humidity:%", "temperature:K", "pressure:Pa"), 7)
    frame = _read(source, clock)

    assert frame.index == 7 and frame.stream == "air" and frame.samples.dtype == np.float32
    assert frame.samples[0] == pytest.approx([1006.5327, 39.11, 298.23, 100653.27], abs=0.01)


@pytest.mark.parametrize("mode", ["forced", "normal"])
def test_samples_lie_on_an_even_grid(make: Make, needs: Needs, clock: FakeClock, mode: str) -> None:
    """Every reading is a new measurement, and its time is when it was asked for."""
    source = make(mode=mode)
    source.open("air", needs(10.0, *ALL), 0)

    frames = [_read(source, clock) for _ in range(20)]

    times = np.concatenate([frame.time_ns for frame in frames])
    values = np.concatenate([frame.samples for frame in frames])
    assert np.abs(np.diff(times) - 100_000_000).max() < 6e6
    assert (np.diff(values, axis=0) != 0).any(axis=1).all()
    assert source.health().lost_samples == 0 and source.health().faults == {}


def test_a_slow_part_still_measures_in_time_in_normal_mode(
    make: Make, needs: Needs, clock: FakeClock, bme280: FakeBme280
) -> None:
    """The pause is chosen for the slowest part the data sheet allows: no value comes twice."""
    bme280.slowness = 1.149
    source = make(mode="normal")
    source.open("air", needs(13.9, *ALL), 0)

    values = np.concatenate([_read(source, clock, 0.001).samples for _ in range(20)])

    assert (np.diff(values, axis=0) != 0).any(axis=1).all()


def test_settings_of_an_earlier_program_are_replaced(
    make: Make, needs: Needs, clock: FakeClock
) -> None:
    """In normal mode the part may ignore new ones: it is sent to sleep first."""
    first, second = make(mode="normal"), make(filter=16)
    first.open("air", needs(10.0, *ALL), 0)
    first.close()

    second.open("air", needs(10.0, *ALL), 0)

    assert len(_read(second, clock)) == 1


def test_a_reading_takes_two_transfers(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """One begins the measurement, one brings settings, status and values."""
    source = make()
    source.open("air", needs(10.0, *ALL), 0)
    _read(source, clock, 0.001)
    before = bus.transfers

    for _ in range(5):
        _read(source, clock, 0.001)

    assert bus.transfers - before == 10


def test_a_reading_that_fails_under_way_is_lost(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """Samples delivered and samples lost add up to the time that has passed."""
    source = make()
    source.open("air", needs(10.0, *ALL), 0)
    _read(source, clock)
    clock.advance(0.095)
    assert source.read(0.0) is None
    bus.error = errno.EREMOTEIO
    clock.advance(0.01)
    with pytest.raises(SourceError):
        source.read(0.0)
    bus.error = None
    clock.advance(0.39)
    source.open("air", needs(10.0, *ALL), 1)
    _read(source, clock)

    assert source.health().lost_samples == 4


def test_fast_readings_come_in_blocks(make: Make, needs: Needs, clock: FakeClock) -> None:
    """A block holds what comes in 100 ms."""
    source = make()
    source.open("air", needs(50.0, *ALL), 0)

    frames = [_read(source, clock, 0.001) for _ in range(3)]

    assert [(frame.index, len(frame)) for frame in frames] == [(0, 5), (5, 5), (10, 5)]


def test_what_no_channel_needs_is_not_measured(make: Make, needs: Needs, bus: FakeBus) -> None:
    """Pressure and humidity take time and power; temperature is needed by both."""
    source = make(humidity_oversampling=16, pressure_oversampling=16)
    source.open("air", needs(1.0, "temperature"), 0)

    assert bus.read_byte_data(0x76, 0xF2) == 0
    assert bus.read_byte_data(0x76, 0xF4) == 0b00100000


def test_the_measuring_time_is_that_of_the_data_sheet() -> None:
    """Section 9.1: the printed example, temperature ×1 and pressure ×4, and everything ×16."""
    assert measurement_s(Oversampling(1, 4, 0)) == pytest.approx(13.325e-3)
    assert measurement_s(Oversampling(16, 16, 16)) == pytest.approx(112.8e-3)


@given(
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from(["forced", "normal"]),
    st.floats(0.1, 400.0),
)
def test_a_rate_is_refused_exactly_when_the_part_is_too_slow(
    first: Any, second: Any, mode: Any, rate_hz: float
) -> None:
    """What the message calls the highest rate works, and nothing clearly above it does."""
    clock = FakeClock()
    bus = FakeBus({0x76: FakeBme280(clock)})
    source = Bme280Source(
        Bme280Config(mode=mode, temperature_oversampling=first, humidity_oversampling=second),
        clock=clock,
        connect=bus.connect,
    )
    channels = (ChannelSpec("humidity"),)

    try:
        source.open("air", StreamSpec(channels, rate_hz), 0)
    except ConfigError as error:
        most_hz = float(error.expected.removeprefix("at most ").partition(" Hz")[0])
        assert most_hz <= rate_hz
        with pytest.raises(ConfigError):
            source.open("air", StreamSpec(channels, most_hz + 0.11), 0)
        source.open("air", StreamSpec(channels, most_hz), 0)
    assert bus.is_open


def test_readings_that_were_missed_are_lost_and_make_one_gap(
    make: Make, needs: Needs, clock: FakeClock
) -> None:
    """Whoever does not ask in time gets no old value."""
    source = make()
    source.open("air", needs(10.0, *ALL), 0)
    before = _read(source, clock)
    clock.advance(1.0)
    after = _read(source, clock)

    assert source.health().lost_samples == pytest.approx(9, abs=1)
    assert after.time_ns[0] - before.time_ns[-1] == pytest.approx(1e9, abs=1e8)
    assert after.quality is not None
    assert after.quality.tolist() == [Quality.LOST_BEFORE]
    assert after.index == before.index + 1


@pytest.mark.parametrize(
    ("counts", "is_saturated"),
    [
        ((0xFFFFF, 415_148, 27_000), True),
        ((519_888, 0, 27_000), True),
        ((519_888, 415_148, 0xFFFF), True),
        ((519_888, 415_148, 60_000), True),
        (EXAMPLE, False),
    ],
)
def test_a_value_at_the_end_of_its_scale_is_kept_and_counted(
    make: Make,
    needs: Needs,
    clock: FakeClock,
    bme280: FakeBme280,
    counts: tuple[int, int, int],
    is_saturated: bool,
) -> None:
    """Humidity is also at its end when the formula has to limit it to 100 %."""
    bme280.counts = lambda _: counts
    source = make()
    source.open("air", needs(1.0, *ALL), 0)

    frame = _read(source, clock)

    assert np.isfinite(frame.samples).all()
    assert source.health().faults == ({"saturated": 1} if is_saturated else {})
    masks = None if frame.quality is None else frame.quality.tolist()
    assert masks == ([Quality.SATURATED] if is_saturated else None)


def test_readings_that_stand_still_are_kept_and_counted(
    make: Make, needs: Needs, clock: FakeClock, bme280: FakeBme280
) -> None:
    """From the configured time on, every further reading is a fault."""
    bme280.counts = lambda _: EXAMPLE
    source = make(frozen_s=5.0)
    source.open("air", needs(1.0, *ALL), 0)

    frames = [_read(source, clock, 0.02) for _ in range(8)]

    assert source.health().faults == {"frozen": 3}
    masks = joined_masks((frame.quality, len(frame)) for frame in frames)
    assert masks is not None
    assert masks.tolist() == [0] * 5 + [Quality.FROZEN] * 3


def test_a_part_that_is_unplugged_and_put_back_goes_on(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """The same source opened again counts what was due meanwhile, and its times show one gap."""
    source = make()
    source.open("air", needs(10.0, *ALL), 0)
    before = _read(source, clock)
    bus.unplug(0x76)
    clock.advance(0.1)
    with pytest.raises(SourceError, match="no part answers at 0x76"):
        source.read(0.0)
    source.close()
    with pytest.raises(SourceError, match="no part answers"):
        source.open("air", needs(10.0, *ALL), 1)
    clock.advance(3.0)
    bus.plug(0x76)
    with pytest.raises(SourceError, match="still starting"):
        source.open("air", needs(10.0, *ALL), 1)
    assert not bus.is_open
    clock.advance(0.1)
    source.open("air", needs(10.0, *ALL), 1)
    after = _read(source, clock)

    lost = source.health().lost_samples
    assert after.index == 1
    assert lost == pytest.approx(31, abs=1)
    gap_ns = after.time_ns[0] - before.time_ns[0]
    assert gap_ns == pytest.approx((lost + 1) * 100_000_000, abs=2e6)


@pytest.mark.parametrize("channels", [("temperature",), ALL])
@pytest.mark.parametrize("mode", ["forced", "normal"])
def test_a_part_that_lost_its_power_for_a_moment_is_noticed(
    make: Make,
    needs: Needs,
    clock: FakeClock,
    bus: FakeBus,
    mode: str,
    channels: tuple[str, ...],
) -> None:
    """It answers, but its settings are gone: no value of it is believed."""
    source = make(mode=mode)
    source.open("air", needs(1.0, *channels), 0)
    _read(source, clock)
    bus.unplug(0x76)
    bus.plug(0x76)
    clock.advance(1.0)

    with pytest.raises(SourceError, match="as they were set"):
        _read(source, clock)


def test_what_was_read_before_a_failure_is_delivered_first(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """The failure comes with the next read."""
    source = make()
    source.open("air", needs(50.0, *ALL), 0)
    for _ in range(12):
        assert source.read(0.0) is None
        clock.advance(0.005)
    bus.error = errno.ETIMEDOUT
    clock.advance(0.02)
    frame = source.read(0.0)

    assert frame is not None and 0 < len(frame) < 5
    for _ in range(2):
        with pytest.raises(SourceError, match="stuck"):
            source.read(0.0)


@pytest.mark.parametrize(("chip_id", "name"), [(0x58, "BMP280"), (0x61, "BME680"), (0, "other")])
def test_another_part_is_named(clock: FakeClock, needs: Needs, chip_id: int, name: str) -> None:
    """The commonest mistake is a BMP280, which looks the same."""
    bus = FakeBus({0x76: FakeBme280(clock, chip_id=chip_id)})
    source = Bme280Source(Bme280Config(), clock=clock, connect=bus.connect)

    with pytest.raises(SourceError, match=f"0x{chip_id:02x}: .*{name}.*expected 0x60, a BME280"):
        source.open("air", needs(1.0, "temperature"), 0)

    assert not bus.is_open


def test_a_flipped_bit_in_the_calibration_is_noticed(
    make: Make, needs: Needs, bus: FakeBus
) -> None:
    """It would falsify every value from then on."""
    bus.flips = [(20, 0x04)]

    with pytest.raises(SourceError, match="calibration reads differently"):
        make().open("air", needs(1.0, "temperature"), 0)


def test_a_flipped_bit_in_the_settings_is_read_again(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """One misread burst is counted and costs no sample."""
    source = make()
    source.open("air", needs(1.0, "temperature"), 0)
    bus.flips = [(2, 0x40)]

    _read(source, clock)

    assert source.health().faults == {"misread": 1}
    assert source.health().lost_samples == 0


def test_a_flipped_bit_in_a_value_cannot_be_seen(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """The part sends no check sum: this is what the documentation says, too."""
    source = make()
    source.open("air", needs(1.0, "temperature"), 0)
    bus.flips = [(8, 0x40)]

    frame = _read(source, clock)

    assert abs(frame.samples[0, 0] - 25.08) > 1
    assert source.health().faults == {}


def test_a_slow_measurement_is_waited_for(
    make: Make, needs: Needs, clock: FakeClock, bme280: FakeBme280
) -> None:
    """The status bit decides, not the time alone."""
    bme280.slowness = 2.0
    source = make()
    source.open("air", needs(10.0, *ALL), 0)

    frame = _read(source, clock, 0.001)

    assert frame.samples[0, 0] == pytest.approx(25.08, abs=0.01)


def test_a_measurement_that_never_ends_is_an_error(
    make: Make, needs: Needs, clock: FakeClock, bme280: FakeBme280
) -> None:
    """After four times its longest time the part counts as hung."""
    bme280.slowness = 1000.0
    source = make()
    source.open("air", needs(10.0, *ALL), 0)

    with pytest.raises(SourceError, match=r"does not end; expected a result within 9\.3 ms"):
        _read(source, clock)


def test_a_close_during_a_measurement_ends_the_read(bus: FakeBus, needs: Needs) -> None:
    """The longest measurement need not be waited for; time stands, and still it ends."""
    source = Bme280Source(
        Bme280Config(temperature_oversampling=16), clock=FakeClock(), connect=bus.connect
    )
    source.open("air", needs(1.0, "temperature"), 0)
    closing = threading.Timer(0.02, source.close)
    closing.start()

    assert source.read(60.0) is None
    closing.join()
    assert not bus.is_open


def test_a_wrong_channel_is_refused_before_the_bus_is_opened(
    make: Make, needs: Needs, bus: FakeBus
) -> None:
    """Nothing is touched for a model that does not fit."""
    with pytest.raises(ConfigError, match="no channel 'co2'"):
        make().open("air", needs(1.0, "co2"), 0)

    assert bus.transfers == 0
