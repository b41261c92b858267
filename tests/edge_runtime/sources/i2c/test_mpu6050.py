"""An MPU-6050 on a fake bus: rates, layouts, bursts, overflows and everything that can go wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.quality import Quality, joined_masks
from edge_runtime.sources.i2c.mpu6050 import CHANNELS, Mpu6050Config, Mpu6050Source
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.i2c import FakeBus, FakeMpu6050
from edge_runtime.types import Frame

Needs = Callable[..., StreamSpec]
Make = Callable[..., Mpu6050Source]


@pytest.fixture
def make(bus: FakeBus, clock: FakeClock) -> Make:
    """Give a maker of sources on the fake bus at 400 kHz."""

    def make(**options: Any) -> Mpu6050Source:
        config = Mpu6050Config(**{"bus_hz": 400_000} | options)
        return Mpu6050Source(config, clock=clock, connect=bus.connect)

    return make


def _played(
    source: Mpu6050Source, clock: FakeClock, seconds: float, step_s: float = 0.01
) -> list[Frame]:
    """Let time pass and return all that comes."""
    frames = []
    for _ in range(round(seconds / step_s)):
        clock.advance(step_s)
        frame = source.read(0.0)
        if frame is not None:
            frames.append(frame)
    return frames


def _numbered(time_s: np.ndarray) -> np.ndarray:
    """One count more in every channel with every sample of 100 Hz; channels differ by 1000."""
    counts = np.rint(time_s * 100)[:, None] % 900 + 1000 * np.arange(7)
    accel, gyro = 16384.0, 131.072
    return counts / np.array([accel] * 3 + [340.0] + [gyro] * 3) + [0, 0, 0, 36.53, 0, 0, 0]


def _samples(frames: list[Frame]) -> np.ndarray:
    return np.concatenate([frame.samples for frame in frames])


@given(st.permutations(CHANNELS), st.integers(1, 7))
@settings(max_examples=30)
def test_any_channels_come_in_any_order(order: list[str], count: int) -> None:
    """The FIFO holds no more than is needed, and every channel is found in it."""
    clock = FakeClock()
    bus = FakeBus({0x68: FakeMpu6050(clock, _numbered)})
    source = Mpu6050Source(Mpu6050Config(bus_hz=400_000), clock=clock, connect=bus.connect)
    chosen = order[:count]
    need = StreamSpec(tuple(ChannelSpec(name, "LSB") for name in chosen), 100.0)
    source.open("board", need, 0)

    samples = _samples(_played(source, clock, 0.5))

    assert samples.dtype == np.int16
    assert (samples // 1000 == [CHANNELS.index(name) for name in chosen]).all()
    assert (np.diff(samples[:, 0]) == 1).all()


def test_a_model_may_call_the_channels_otherwise() -> None:
    """A map gives the part's name; what is not in it keeps its own."""
    clock = FakeClock()
    bus = FakeBus({0x68: FakeMpu6050(clock, _numbered)})
    config = Mpu6050Config(bus_hz=400_000, channels={"x": "accel_x", "spin": "gyro_z"})
    source = Mpu6050Source(config, clock=clock, connect=bus.connect)
    need = StreamSpec(tuple(ChannelSpec(one, "LSB") for one in ("spin", "x", "accel_y")), 100.0)
    source.open("board", need, 0)

    samples = _samples(_played(source, clock, 0.5))

    expected = [CHANNELS.index(name) for name in ("gyro_z", "accel_x", "accel_y")]
    assert (samples // 1000 == expected).all()


@pytest.mark.parametrize(
    ("channel", "options", "expected"),
    [
        ("accel_z", {}, 1.0),
        ("accel_z:g", {"accel_range_g": 16}, 1.0),
        ("accel_z:m/s²", {"accel_range_g": 4}, 9.80665),
        ("gyro_x", {}, 90.0),
        ("gyro_x:°/s", {"gyro_range_dps": 2000}, 90.0),
        ("gyro_x:rad/s", {"gyro_range_dps": 500}, np.pi / 2),
        ("temperature", {}, 25.0),
        ("temperature:K", {}, 298.15),
    ],
)
def test_values_have_the_units_of_the_model(
    make: Make,
    needs: Needs,
    clock: FakeClock,
    mpu6050: FakeMpu6050,
    channel: str,
    options: dict[str, int],
    expected: float,
) -> None:
    """Whatever the range, a value is within one count of what the board feels."""
    mpu6050.signal = lambda t: np.tile([0.0, 0.0, 1.0, 25.0, 90.0, 0.0, 0.0], (len(t), 1))
    source = make(**options)
    source.open("board", needs(100.0, channel), 0)

    samples = _samples(_played(source, clock, 0.3))

    assert samples.dtype == np.float32
    assert samples == pytest.approx(expected, rel=2e-3)


def test_samples_follow_the_clock_of_the_part(
    make: Make, needs: Needs, clock: FakeClock, mpu6050: FakeMpu6050
) -> None:
    """An oscillator 1 % fast is followed; nothing is lost and no time goes back."""
    mpu6050.speed = 1.01
    source = make()
    source.open("board", needs(200.0, "accel_x", "gyro_x"), 3)

    frames = _played(source, clock, 60.0, 0.05)

    times = np.concatenate([frame.time_ns for frame in frames])
    assert frames[0].index == 3
    assert len(times) == pytest.approx(60 * 202, abs=40)
    assert frames[-1].step_ns == pytest.approx(5e6 / 1.01, rel=5e-3)
    assert times[-1] == pytest.approx(clock.now_ns(), abs=20e6)
    assert (np.diff(times) > 0).all()
    assert source.health().lost_samples == 0 and source.health().faults == {}


@pytest.mark.parametrize("rate_hz", [1000.0, 500.0, 333.333, 100.0, 7.8125, 3.90625])
def test_rates_that_divide_1000_hz_exist(
    make: Make, needs: Needs, clock: FakeClock, rate_hz: float
) -> None:
    """A rate written with few digits is still that rate."""
    source = make()
    source.open("board", needs(rate_hz, "accel_x"), 0)

    samples = _samples(_played(source, clock, 2.1))

    assert len(samples) == pytest.approx(2 * rate_hz, abs=0.06 * rate_hz + 1)


@pytest.mark.parametrize(
    ("rate_hz", "nearest"),
    [(300.0, "250 Hz or 333.333 Hz"), (2000.0, "1000 Hz"), (1.0, "3.90625 Hz")],
)
def test_other_rates_are_refused_with_the_nearest(
    make: Make, needs: Needs, bus: FakeBus, rate_hz: float, nearest: str
) -> None:
    """Nothing is resampled in silence, and no bus is touched."""
    with pytest.raises(ConfigError, match=f"such as {nearest}"):
        make().open("board", needs(rate_hz, "accel_x"), 0)

    assert bus.transfers == 0


@pytest.mark.parametrize(
    ("bus_hz", "channels", "most"),
    [(100_000, CHANNELS, "500 Hz"), (100_000, ("gyro_x",), None), (400_000, CHANNELS, None)],
)
def test_a_bus_that_is_too_slow_for_a_rate_is_refused(
    make: Make, needs: Needs, bus_hz: int, channels: tuple[str, ...], most: str | None
) -> None:
    """All seven channels at 1 kHz need 400 kHz; at 100 kHz they go up to 500 Hz."""
    source = make(bus_hz=bus_hz)
    if most is None:
        source.open("board", needs(1000.0, *channels), 0)
        return

    with pytest.raises(ConfigError, match=f"at most {most}"):
        source.open("board", needs(1000.0, *channels), 0)
    source.open("board", needs(500.0, *channels), 0)


def test_the_bus_is_as_busy_as_was_computed(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """All seven channels at 1 kHz take about a third of 400 kHz, far below the limit of 80 %."""
    source = make()
    source.open("board", needs(1000.0, *CHANNELS), 0)
    _played(source, clock, 0.2)
    before = bus.bytes_moved

    _played(source, clock, 1.0)

    assert 9 * (bus.bytes_moved - before) / 400_000 == pytest.approx(0.34, abs=0.03)


@pytest.mark.parametrize(
    ("options", "rate_hz", "register", "value"),
    [
        ({}, 1000.0, 0x1A, 1),
        ({}, 100.0, 0x1A, 3),
        ({}, 4.0, 0x1A, 6),
        ({"bandwidth_hz": 10}, 1000.0, 0x1A, 5),
        ({"accel_range_g": 8}, 100.0, 0x1C, 0x10),
        ({"gyro_range_dps": 500}, 100.0, 0x1B, 0x08),
        ({}, 100.0, 0x19, 9),
        ({}, 100.0, 0x23, 0x48),
        ({}, 100.0, 0x6B, 0x01),
    ],
)
def test_registers_are_set_as_the_options_say(
    make: Make,
    needs: Needs,
    bus: FakeBus,
    options: dict[str, int],
    rate_hz: float,
    register: int,
    value: int,
) -> None:
    """The filter is the widest below half the rate, unless one is asked for."""
    make(**options).open("board", needs(rate_hz, "accel_x", "gyro_x"), 0)

    assert bus.read_byte_data(0x68, register) == value


def test_an_overflow_is_counted_and_leaves_one_gap(
    make: Make, needs: Needs, clock: FakeClock, mpu6050: FakeMpu6050
) -> None:
    """After a stall the bytes begin anywhere: they are given up, and the rest is whole again."""
    mpu6050.signal = _numbered
    source = make()
    source.open("board", needs(100.0, *(f"{name}:LSB" for name in CHANNELS)), 0)
    before = _played(source, clock, 0.5)
    clock.advance(3.0)
    after = _played(source, clock, 0.5)

    samples = _samples(after)
    times = np.concatenate([frame.time_ns for frame in before + after])
    health = source.health()
    assert health.faults == {"fifo_overflow": 1}
    assert health.lost_samples == pytest.approx(300, abs=6)
    assert (samples // 1000 == np.arange(7)).all()
    steps = np.diff(times)
    assert (steps > 20e6).sum() == 1
    assert steps.max() == pytest.approx((health.lost_samples + 1) * 10e6, abs=2e6)
    assert (samples[0, 0] - _samples(before)[-1, 0]) % 900 == pytest.approx(
        health.lost_samples + 1, abs=1
    )


@given(st.lists(st.floats(0.001, 0.4), min_size=5, max_size=40))
@settings(max_examples=40)
def test_however_late_it_is_read_no_sample_is_wrong_or_counted_twice(waits_s: list[float]) -> None:
    """Delivered and lost samples add up to the time that has passed, and times only grow."""
    clock = FakeClock()
    bus = FakeBus({0x68: FakeMpu6050(clock, _numbered)})
    source = Mpu6050Source(Mpu6050Config(bus_hz=400_000), clock=clock, connect=bus.connect)
    need = StreamSpec(tuple(ChannelSpec(name, "LSB") for name in CHANNELS), 500.0)
    source.open("board", need, 0)
    _played(source, clock, 0.2)
    began_ns, lost_before = clock.monotonic_ns(), source.health().lost_samples
    frames = []
    for wait_s in [*waits_s, 0.03, 0.03]:
        clock.advance(wait_s)
        frame = source.read(0.0)
        frames += [frame] if frame is not None else []

    passed = (clock.monotonic_ns() - began_ns) / 2e6
    lost = source.health().lost_samples - lost_before
    assert sum(map(len, frames)) + lost == pytest.approx(passed, abs=20)
    assert all((frame.samples // 1000 == np.arange(7)).all() for frame in frames)
    assert (np.diff(np.concatenate([frame.time_ns for frame in frames])) > 0).all()


def test_what_an_earlier_program_left_behind_is_cleared(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus, mpu6050: FakeMpu6050
) -> None:
    """An overflow while nobody read is nobody's loss, and axes on standby wake up."""
    source = make()
    source.open("board", needs(1000.0, "accel_x"), 0)
    _played(source, clock, 0.5)
    source.close()
    mpu6050.write(b"\x6c\x3f")
    clock.advance(10.0)

    source.open("board", needs(1000.0, "accel_x"), 0)
    _played(source, clock, 0.5)

    assert bus.read_byte_data(0x68, 0x6C) == 0
    assert source.health().faults == {} and source.health().lost_samples == 0


def test_values_at_full_scale_are_kept_and_counted_per_reading(
    make: Make, needs: Needs, clock: FakeClock, mpu6050: FakeMpu6050
) -> None:
    """What saturates several channels at once is one reading."""
    mpu6050.signal = lambda t: np.tile([-3.0, 3.0, 1.0, 25.0, 0.0, 0.0, 0.0], (len(t), 1))
    source = make(frozen_s=None)
    source.open("board", needs(100.0, "accel_x", "accel_y", "accel_z"), 0)

    frames = _played(source, clock, 0.5)

    samples = _samples(frames)
    assert samples[0] == pytest.approx([-2.0, 2.0, 1.0], abs=1e-4)
    assert source.health().faults == {"saturated": len(samples)}
    assert {mask for frame in frames for mask in frame.quality} == {Quality.SATURATED}


def test_readings_that_stand_still_are_kept_and_counted(
    make: Make, needs: Needs, clock: FakeClock, mpu6050: FakeMpu6050
) -> None:
    """A part that hangs repeats itself: after a second every further reading is a fault."""
    mpu6050.signal = lambda t: np.tile([0.0, 0.0, 1.0, 25.0, 0.0, 0.0, 0.0], (len(t), 1))
    source = make()
    source.open("board", needs(100.0, "accel_z"), 0)

    frames = _played(source, clock, 3.0)

    masks = joined_masks((frame.quality, len(frame)) for frame in frames)
    assert masks is not None
    assert masks.tolist() == [0] * 100 + [Quality.FROZEN] * (len(masks) - 100)
    assert source.health().faults == {"frozen": len(masks) - 100}


def test_a_part_that_is_unplugged_and_put_back_goes_on(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """The index goes on, what was due is counted, and the times show one gap."""
    source = make()
    need = needs(100.0, "accel_x")
    source.open("board", need, 0)
    before = _played(source, clock, 1.0)
    bus.unplug(0x68)
    with pytest.raises(SourceError, match="no part answers at 0x68"):
        _played(source, clock, 0.2)
    source.close()
    index = before[-1].index + len(before[-1])
    with pytest.raises(SourceError, match="no part answers"):
        source.open("board", need, index)
    clock.advance(2.0)
    bus.plug(0x68)
    source.open("board", need, index)
    after = _played(source, clock, 1.0)

    lost = source.health().lost_samples
    gap_ns = after[0].time_ns[0] - before[-1].time_ns[-1]
    assert after[0].index == index
    assert lost == pytest.approx(215, abs=7)
    assert gap_ns == pytest.approx((lost + 1) * 10e6, abs=2e6)


def test_a_part_that_lost_its_power_for_a_moment_is_noticed(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """It answers, but sleeps, and its FIFO stays empty."""
    source = make()
    source.open("board", needs(100.0, "accel_x"), 0)
    _played(source, clock, 0.5)
    bus.plug(0x68)

    with pytest.raises(SourceError, match="asleep: it has lost power; expected 100 samples"):
        _played(source, clock, 1.0)


@pytest.mark.parametrize(("identity", "name"), [(0x70, "MPU-6500"), (0x00, "some other part")])
def test_another_part_is_named(clock: FakeClock, needs: Needs, identity: int, name: str) -> None:
    """Boards are sold under the wrong name."""
    bus = FakeBus({0x68: FakeMpu6050(clock, identity=identity)})
    source = Mpu6050Source(Mpu6050Config(), clock=clock, connect=bus.connect)

    with pytest.raises(SourceError, match=f"0x{identity:02x}: {name}; expected 0x68, an MPU-6050"):
        source.open("board", needs(100.0, "accel_x"), 0)

    assert not bus.is_open


@pytest.mark.parametrize(("number", "what"), [(errno.ETIMEDOUT, "stuck"), (errno.EIO, "failed")])
def test_a_bus_that_fails_in_the_middle_is_an_error(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus, number: int, what: str
) -> None:
    """The device opens the source again; here the bus has recovered by then."""
    source = make()
    source.open("board", needs(100.0, "accel_x"), 0)
    _played(source, clock, 0.5)
    bus.error = number
    with pytest.raises(SourceError, match=what):
        _played(source, clock, 0.1)
    bus.error = None
    source.open("board", needs(100.0, "accel_x"), 40)

    assert _played(source, clock, 0.5)[0].index == 40


def test_a_flipped_bit_in_the_settings_is_noticed(make: Make, needs: Needs, bus: FakeBus) -> None:
    """Every setting is read back; the identity is the first byte read."""
    bus.flips = [(0, 0x00), (0, 0x02)]

    with pytest.raises(SourceError, match="register 0x6b is 0x03; expected 0x01, as it was set"):
        make().open("board", needs(100.0, "accel_x"), 0)


@pytest.mark.parametrize(
    ("flip", "misread"), [((0, 0x80), 1), ((0, 0x02), 1), ((1, 0x80), 1), ((1, 0x02), 0)]
)
def test_a_flipped_bit_in_the_count_spoils_no_sample(
    make: Make,
    needs: Needs,
    clock: FakeClock,
    bus: FakeBus,
    mpu6050: FakeMpu6050,
    flip: tuple[int, int],
    misread: int,
) -> None:
    """A count that cannot be is asked for again; one that is too small waits for the next."""
    mpu6050.signal = _numbered
    source = make()
    source.open("board", needs(100.0, *(f"{name}:LSB" for name in CHANNELS)), 0)
    frames = _played(source, clock, 0.5)
    clock.advance(0.04)
    bus.flips = [flip]
    frames += _played(source, clock, 0.5)

    samples = _samples(frames)
    assert bus.flips == []
    assert source.health().faults.get("misread", 0) == misread
    assert (samples // 1000 == np.arange(7)).all()
    assert (np.diff(samples[:, 0]) == 1).all()


def test_a_count_that_stays_impossible_is_an_error(
    make: Make, needs: Needs, clock: FakeClock, bus: FakeBus
) -> None:
    """An unpowered part may read as all ones."""
    source = make()
    source.open("board", needs(100.0, "accel_x"), 0)
    _played(source, clock, 0.5)
    bus.flips = [(0, 0xFF), (0, 0xFF)]

    with pytest.raises(SourceError, match="the FIFO counts 65"):
        _played(source, clock, 0.1)
