"""Readings one by one, against a stand-in that answers as the kernel does."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.quality import Quality
from edge_runtime.sources.iio import IioConfig, IioSource
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.iio import FakeIio

Part = Callable[..., FakeIio]
Make = Callable[..., IioSource]
NEED = StreamSpec((ChannelSpec("temp"), ChannelSpec("humidityrelative")), 2.0)
FILES = {
    "in_temp_raw": "600",
    "in_temp_offset": "-100",
    "in_temp_scale": "0.5",
    "in_humidityrelative_input": "43000",
    "in_humidityrelative_scale": "7",
}


@pytest.fixture
def kernel(part: Part) -> FakeIio:
    return part(elements={}, files=FILES, rates_hz=(), is_stamped=False, name="hdc")


@pytest.fixture
def sensor(kernel: FakeIio, source: Make) -> IioSource:
    made = source(kernel, device="hdc", capture="poll", channels=None)
    made.open("room", NEED, 3)
    return made


def test_readings_come_on_the_grid_in_the_kernels_units(
    sensor: IioSource, kernel: FakeIio, clock: FakeClock
) -> None:
    """A raw value is scaled, a processed one is taken as it stands."""
    began_ns = clock.now_ns()
    first = sensor.read(0.0)
    kernel.set_raw({"in_temp_raw": "700"})
    clock.advance(0.5)
    second = sensor.read(0.0)

    assert first is not None and second is not None
    assert first.samples.tolist() == [[250.0, 43000.0]]
    assert second.samples.tolist() == [[300.0, 43000.0]]
    assert (first.index, second.index) == (3, 4)
    assert [*first.time_ns, *second.time_ns] == [began_ns, began_ns + 500_000_000]
    assert sensor.read(0.0) is None


def test_readings_that_were_missed_are_counted(sensor: IioSource, clock: FakeClock) -> None:
    """A reader that was away for three periods has lost two readings."""
    sensor.read(0.0)
    clock.advance(1.5)

    frame = sensor.read(0.0)

    assert frame is not None
    assert sensor.health().lost_samples == 2
    assert frame.quality is not None
    assert frame.quality.tolist() == [Quality.LOST_BEFORE]


@pytest.mark.parametrize(("number", "is_saturated"), [(2047, True), (-2048, True), (2046, False)])
def test_a_reading_at_the_end_of_the_range_is_kept_counted_and_marked(
    part: Part, source: Make, number: int, *, is_saturated: bool
) -> None:
    """A driver that also has a buffer says how many bits its converter has."""
    files = FILES | {"in_temp_raw": str(number), "scan_elements/in_temp_type": "le:s12/16>>0"}
    kernel = part(elements={}, files=files, rates_hz=(), is_stamped=False, name="hdc")
    sensor = source(kernel, device="hdc", capture="poll", channels=None)
    sensor.open("room", NEED, 0)

    frame = sensor.read(0.0)

    assert frame is not None
    assert frame.samples[0, 0] == (number - 100) * 0.5
    masks = None if frame.quality is None else frame.quality.tolist()
    assert masks == ([Quality.SATURATED] if is_saturated else None)
    assert sensor.health().faults == ({"saturated": 1} if is_saturated else {})


def test_readings_that_stand_still_are_noted_where_that_is_a_fault(
    kernel: FakeIio, source: Make, clock: FakeClock
) -> None:
    """A room's temperature may stand still for a while, but not for ever."""
    sensor = source(kernel, device="hdc", capture="poll", channels=None, frozen_s=2.0)
    sensor.open("room", NEED, 0)

    masks = []
    for _ in range(6):
        frame = sensor.read(0.0)
        assert frame is not None
        masks.append(0 if frame.quality is None else int(frame.quality[0]))
        clock.advance(0.5)

    assert masks == [0] * 4 + [Quality.FROZEN] * 2
    assert sensor.health().faults == {"frozen": 2}


@pytest.mark.parametrize("fault", [errno.EIO, errno.ETIMEDOUT, errno.EBUSY])
def test_a_failed_reading_is_missing_not_zero(
    sensor: IioSource, kernel: FakeIio, clock: FakeClock, fault: int
) -> None:
    """A disturbed bus gives NaN for that channel alone, and the next reading works."""
    kernel.failures["in_temp_raw"] = fault
    disturbed = sensor.read(0.0)
    kernel.failures.clear()
    clock.advance(0.5)
    clean = sensor.read(0.0)

    assert disturbed is not None and clean is not None
    np.testing.assert_array_equal(disturbed.samples, np.float32([[np.nan, 43000.0]]))
    assert np.isfinite(clean.samples).all()
    assert sensor.health().faults == {"read_failed": 1}


def test_text_that_is_no_number_is_missing(sensor: IioSource, kernel: FakeIio) -> None:
    """An attribute that says something else is counted as unparsable."""
    kernel.set_raw({"in_temp_raw": "n/a"})

    frame = sensor.read(0.0)

    assert frame is not None
    assert np.isnan(frame.samples[0, 0])
    assert sensor.health().faults == {"unparsable": 1}


def test_a_part_that_never_answers_is_a_failure(
    sensor: IioSource, kernel: FakeIio, clock: FakeClock
) -> None:
    """Ten readings without a single number in a row end in an error."""
    kernel.failures |= {"in_temp_raw": errno.EIO, "in_humidityrelative_input": errno.EIO}
    for _ in range(9):
        sensor.read(0.0)
        clock.advance(0.5)

    with pytest.raises(SourceError, match="10 readings failed"):
        sensor.read(0.0)


def test_a_part_that_is_unplugged_fails_and_comes_back(sensor: IioSource, kernel: FakeIio) -> None:
    """Once the part is back, an open goes on at the index that is asked for."""
    kernel.unplug()
    with pytest.raises(SourceError, match="does not answer"):
        sensor.read(0.0)
    sensor.close()
    kernel.plug()
    sensor.open("room", NEED, 9)

    frame = sensor.read(0.0)
    assert frame is not None
    assert frame.index == 9


def test_times_never_repeat(sensor: IioSource, clock: FakeClock) -> None:
    """Set back by a minute, the wall clock does not make times go back."""
    first = sensor.read(0.0)
    clock.advance(0.5)
    clock.jump(-60)
    second = sensor.read(0.0)

    assert first is not None and second is not None
    assert second.time_ns[0] - first.time_ns[0] == 500_000_000
    assert second.clock == "unsynced"
    assert sensor.health().faults == {"clock_set_back": 1}


def test_elements_without_readings_are_refused(kernel: FakeIio, source: Make) -> None:
    """The message lists what can be polled; a repeated element cannot."""
    made = source(kernel, device="hdc", capture="poll", channels={"temp": "temp:1"})
    pressure = StreamSpec((ChannelSpec("pressure"),), 2.0)

    with pytest.raises(ConfigError, match=r"no element 'pressure'.*humidityrelative, temp"):
        source(kernel, device="hdc", capture="poll", channels=None).open("room", pressure, 0)
    with pytest.raises(ConfigError, match="one number of 'temp'"):
        made.open("room", StreamSpec((ChannelSpec("temp"),), 2.0), 0)


def test_attributes_are_restored(kernel: FakeIio, source: Make) -> None:
    """At a close, and where the set-up fails half way."""
    options = {"device": "hdc", "capture": "poll", "attributes": {"in_temp_scale": 2}}
    sensor = source(kernel, channels=None, **options)
    sensor.open("room", NEED, 0)
    assert kernel.say("in_temp_scale") == "2"
    sensor.close()
    assert kernel.say("in_temp_scale") == "0.5"

    with pytest.raises(ConfigError):
        source(kernel, channels={}, **options).open("room", NEED, 0)
    assert kernel.say("in_temp_scale") == "0.5"


def test_a_wrong_configuration_is_refused() -> None:
    """A trigger paces a buffer alone, and attributes are names of files."""
    with pytest.raises(ConfigError, match="capture: buffer alone"):
        IioConfig(device="hdc", capture="poll", trigger="tick0")
    with pytest.raises(ConfigError, match=r"names '\.\./enable'"):
        IioConfig(device="hdc", attributes={"../enable": 1})
