"""Capture through the buffer, against a stand-in that answers as the kernel does."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.quality import Quality
from edge_runtime.sources.iio import IioConfig, IioSource
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.iio import FakeIio

Part = Callable[..., FakeIio]
Make = Callable[..., IioSource]
PERIOD_NS = 10_000_000
AXES = {axis: f"accel_{axis}" for axis in "xyz"}


def _feed(kernel: FakeIio, clock: FakeClock, samples: int, first: int = 0) -> np.ndarray:
    """Let a part sample 100 times a second; return the raw values."""
    raw = np.arange(3 * first, 3 * (first + samples)).reshape(samples, 3) % 4000
    for row in raw:
        clock.advance(0.01)
        kernel.feed(row[None])
    return raw


def _tree(kernel: FakeIio) -> dict[str, str]:
    files = sorted(path for path in kernel.root.rglob("*") if path.is_file())
    return {str(path): path.read_text() for path in files}


def test_samples_come_in_physical_units_with_the_kernels_stamps(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """A block holds what the watermark asked for, each sample at its own time."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", need, 40)
    began_ns = clock.now_ns()

    raw = _feed(kernel, clock, 5)
    frame = sensor.read(0.0)

    assert frame is not None
    assert (frame.stream, frame.index, len(frame)) == ("hall", 40, 5)
    np.testing.assert_allclose(frame.samples, raw * 0.038245935, rtol=1e-6)
    assert frame.samples.dtype == np.float32
    assert frame.time_ns.tolist() == [began_ns + PERIOD_NS * k for k in range(1, 6)]
    assert sensor.health().lost_samples == 0


def test_channels_come_in_the_models_order(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """Only the needed elements are enabled, and their order is the model's."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", StreamSpec((ChannelSpec("z"), ChannelSpec("x")), 100.0), 0)

    raw = _feed(kernel, clock, 5)
    frame = sensor.read(0.0)

    assert frame is not None
    np.testing.assert_allclose(frame.samples, raw[:, [2, 0]] * 0.038245935, rtol=1e-6)
    assert kernel.say("buffer0/in_accel_y_en") == "0"


def test_what_lies_below_the_watermark_comes_after_the_time_out(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """Two samples do not wake the reader, yet they are not kept from it."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", need, 0)
    _feed(kernel, clock, 2)

    frame = sensor.read(0.001)

    assert frame is not None
    assert len(frame) == 2
    assert sensor.read(0.001) is None


def test_a_full_buffer_shows_as_lost_samples_and_a_jump_in_time(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """What the kernel dropped while nobody read is seen by the stamps, to the sample."""
    kernel = part()
    sensor = source(kernel, buffer_s=0.2)
    sensor.open("hall", need, 0)

    _feed(kernel, clock, 50)
    before = sensor.read(0.0)
    _feed(kernel, clock, 5, 50)
    after = sensor.read(0.0)

    assert before is not None and after is not None
    assert kernel.overruns == 30
    assert sensor.health().lost_samples == 30
    assert after.time_ns[0] - before.time_ns[-1] == 31 * PERIOD_NS
    assert after.index == before.index + len(before)


def test_without_stamps_the_arrivals_show_what_is_missing(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """Blocks that stay late for a second are counted as lost samples."""
    kernel = part(is_stamped=False)
    sensor = source(kernel)
    sensor.open("hall", need, 0)
    frames = []

    for gap_s in (0.0, 1.0):
        clock.advance(gap_s)
        for _ in range(40):
            _feed(kernel, clock, 5)
            frames.append(sensor.read(0.0))

    assert all(frame is not None and frame.step_ns is not None for frame in frames)
    assert sensor.health().lost_samples == pytest.approx(100, abs=6)


@given(
    raw=st.lists(st.integers(-4096, 4095), min_size=1, max_size=60),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=60),
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chunking_gives_the_same_samples(
    part: Part, source: Make, clock: FakeClock, raw: list[int], cuts: list[int]
) -> None:
    """However samples bunch up before a read, none is lost, doubled or out of order."""
    kernel = part(elements={"accel_x": "be:s13/16>>3", "accel_y": "le:u8/8>>0"})
    sensor = source(kernel, channels=None)
    sensor.open("hall", StreamSpec((ChannelSpec("accel_x"),), 100.0), 0)
    found, first = [], 0

    for cut in cuts:
        rows = [(number, 7) for number in raw[first : first + cut]]
        first += cut
        clock.advance(0.01 * len(rows))
        now_ns = clock.monotonic_ns()
        kernel.feed(rows, [now_ns - PERIOD_NS * k for k in reversed(range(len(rows)))])
        frame = sensor.read(0.0)
        found += [] if frame is None else frame.samples[:, 0].tolist()

    np.testing.assert_allclose(found, np.float32(raw[:first]) * np.float32(0.038245935), rtol=1e-5)
    assert sensor.health().lost_samples == 0
    sensor.close()


def test_the_wall_clock_may_jump_under_the_stamps(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """Set back by an hour, times go on; nothing is lost, and the clock is not trusted."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", need, 0)
    _feed(kernel, clock, 5)
    before = sensor.read(0.0)
    clock.jump(-3600)
    _feed(kernel, clock, 5)

    after = sensor.read(0.0)

    assert before is not None and after is not None
    assert after.time_ns[0] - before.time_ns[-1] == PERIOD_NS
    assert after.clock == "unsynced"
    assert sensor.health().faults == {"clock_set_back": 1}
    assert sensor.health().lost_samples == 0


def test_everything_is_restored(part: Part, source: Make, need: StreamSpec) -> None:
    """After a close the device is set up as it was found."""
    kernel = part(
        files={"in_accel_scale": "0.038245935", "in_accel_range": "2", "in_accel_hysteresis": "0"}
    )
    before = _tree(kernel)
    sensor = source(
        kernel, attributes={"in_accel_range": 16, "in_accel_hysteresis": 1e-05}, buffer_s=1.5
    )

    sensor.open("hall", StreamSpec(need.channels, 400.0), 0)
    during = {
        name: kernel.say(name)
        for name in (
            "buffer0/enable",
            "buffer0/length",
            "buffer0/watermark",
            "sampling_frequency",
            "current_timestamp_clock",
            "in_accel_range",
            "in_accel_hysteresis",
        )
    }
    sensor.close()

    assert list(during.values()) == ["1", "600", "20", "400", "monotonic", "16", "0.00001"]
    assert _tree(kernel) == before


def test_the_scale_of_a_configured_range_is_used(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """Attributes are written before scales are read."""
    kernel = part()
    sensor = source(kernel, attributes={"in_accel_scale": 2})
    sensor.open("hall", need, 0)
    raw = _feed(kernel, clock, 5)

    frame = sensor.read(0.0)

    assert frame is not None
    assert frame.samples.tolist() == (2.0 * raw).tolist()


def test_scale_and_offset_are_found_where_drivers_put_them(
    part: Part, source: Make, clock: FakeClock
) -> None:
    """An element's own, one of its kind, or none at all."""
    kernel = part(
        elements={"temp_object": "le:s16/16>>0", "voltage1": "le:u12/16>>0", "count0": "le:u8/8"},
        files={"in_temp_offset": "100", "in_temp_object_scale": "0.5", "in_voltage_scale": "3"},
    )
    names = ("count0", "voltage1", "temp_object")
    sensor = source(kernel, channels=None)
    sensor.open("hall", StreamSpec(tuple(ChannelSpec(name) for name in names), 100.0), 0)
    clock.advance(0.01)
    kernel.feed([(10, 7, 5)])

    frame = sensor.read(0.0)

    assert frame is not None
    assert frame.samples.tolist() == [[5.0, 21.0, 55.0]]


def test_numbers_of_a_repeated_element_are_channels_of_their_own(
    part: Part, source: Make, clock: FakeClock
) -> None:
    """A quaternion is one element of four numbers."""
    kernel = part(elements={"rot_quaternion": "le:s32/32X4>>0"}, files={"in_rot_scale": "0.5"})
    sensor = source(kernel, channels={"w": "rot_quaternion:3", "i": "in_rot_quaternion"})
    sensor.open("hall", StreamSpec((ChannelSpec("w"), ChannelSpec("i")), 100.0), 0)
    clock.advance(0.01)
    kernel.feed([(2, 4, 6, 8)])

    frame = sensor.read(0.0)

    assert frame is not None
    assert frame.samples.tolist() == [[4.0, 1.0]]


def test_saturated_samples_are_counted_and_marked(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """A part at the end of its range says so in its health, and which samples it was."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", need, 0)
    clock.advance(0.01)
    kernel.feed([(4095, -4096, 0), (1, 2, 3)])

    frame = sensor.read(0.0)

    assert sensor.health().faults["saturated"] == 1
    assert frame is not None and frame.quality is not None
    assert frame.quality.tolist() == [Quality.SATURATED, 0]


@pytest.mark.parametrize("is_stamped", [True, False])
def test_samples_that_stand_still_are_noted_where_that_is_a_fault(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec, *, is_stamped: bool
) -> None:
    """An accelerometer never does; of a light switch nobody would ask it."""
    kernel = part(is_stamped=is_stamped)
    sensor = source(kernel, frozen_s=0.05)
    sensor.open("hall", need, 0)
    for _ in range(8):
        clock.advance(0.01)
        kernel.feed([(1, 2, 3)])

    frame = sensor.read(0.0)

    assert frame is not None and frame.quality is not None
    assert frame.quality.tolist() == [0] * 5 + [Quality.FROZEN] * 3
    assert sensor.health().faults == {"frozen": 3}


def test_the_sample_behind_missing_ones_is_marked(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """The stamps of the kernel show where they are missing."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", need, 0)
    _feed(kernel, clock, 3)
    clock.advance(0.03)
    _feed(kernel, clock, 4, first=3)

    frame = sensor.read(0.0)

    assert frame is not None and frame.quality is not None
    assert sensor.health().lost_samples == 3
    assert frame.quality.tolist() == [0, 0, 0, Quality.LOST_BEFORE, 0, 0, 0]


def test_a_rate_that_the_part_cannot_do_names_the_nearest(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """Before anything is captured, and with everything restored."""
    kernel = part()
    before = _tree(kernel)

    with pytest.raises(ConfigError, match=r"cannot sample at 250 Hz; .*nearest is 200 Hz\.\n.*200"):
        source(kernel).open("hall", StreamSpec(need.channels, 250.0), 0)

    assert _tree(kernel) == before


def test_a_range_of_rates_is_understood(part: Part, source: Make, need: StreamSpec) -> None:
    """``[lowest step highest]`` bounds the rate."""
    kernel = part(
        rates_hz=(),
        files={
            "in_accel_sampling_frequency": "10.0",
            "in_accel_sampling_frequency_available": "[1.0 0.5 400.0]",
        },
    )
    sensor = source(kernel)

    sensor.open("hall", need, 0)
    assert kernel.say("in_accel_sampling_frequency") == "100"
    sensor.close()
    with pytest.raises(ConfigError, match="nearest is 400 Hz"):
        source(kernel).open("hall", StreamSpec(need.channels, 800.0), 0)


def test_an_hrtimer_trigger_paces_the_buffer(part: Part, source: Make, need: StreamSpec) -> None:
    """The trigger gets the model's rate, and the part is left as it is."""
    kernel = part(triggers=("tick0", "tick1"), rates_hz=(800.0, 100.0))
    sensor = source(kernel, trigger="tick1")

    sensor.open("hall", StreamSpec(need.channels, 250.0), 0)

    assert kernel.say("trigger/current_trigger") == "tick1"
    assert (kernel.root / "trigger1/sampling_frequency").read_text() == "250\n"
    assert kernel.say("sampling_frequency") == "800.000000"
    sensor.close()
    assert kernel.say("trigger/current_trigger") == ""
    assert (kernel.root / "trigger1/sampling_frequency").read_text() == "100.000000\n"


def test_a_trigger_that_others_fire_has_no_rate_to_set(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """A sysfs trigger is assigned, and samples come whenever it is fired."""
    kernel = part(triggers=("sysfstrig0",))
    (kernel.root / "trigger0/sampling_frequency").unlink()
    sensor = source(kernel, trigger="sysfstrig0")

    sensor.open("hall", need, 0)
    _feed(kernel, clock, 5)

    assert sensor.read(0.0) is not None
    assert kernel.say("trigger/current_trigger") == "sysfstrig0"


def test_a_part_slower_than_its_trigger_is_refused(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """It would give every sample several times."""
    kernel = part(triggers=("tick0",))

    with pytest.raises(ConfigError, match=r"samples at 100 Hz.*at least the 250 Hz"):
        source(kernel, trigger="tick0").open("hall", StreamSpec(need.channels, 250.0), 0)


def test_a_trigger_that_is_missing_or_not_named_is_explained(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """The one message lists the triggers, the other says that one is needed."""
    kernel = part(triggers=("tick0",))

    with pytest.raises(ConfigError, match=r"no trigger 'tack'.*one of tick0.\n.*hrtimer/tack"):
        source(kernel, trigger="tack").open("hall", need, 0)
    with pytest.raises(ConfigError, match="a trigger that paces it"):
        source(kernel).open("hall", need, 0)


def test_a_busy_device_says_so(part: Part, source: Make, need: StreamSpec) -> None:
    """A second source cannot take the character device, and disturbs nothing."""
    kernel = part()
    first = source(kernel)
    first.open("hall", need, 0)

    with pytest.raises(SourceError, match=r"iio:device0: another program uses the device"):
        source(kernel).open("hall", need, 0)

    assert kernel.say("buffer0/enable") == "1"


def test_a_buffer_left_enabled_by_a_killed_program_is_taken_over(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """Whoever has the character device open is alone with the buffer."""
    kernel = part()
    kernel.write(kernel.root / "iio:device0/buffer0/in_accel_y_en", "1")
    kernel.write(kernel.root / "iio:device0/buffer0/enable", "1")
    sensor = source(kernel)

    sensor.open("hall", need, 0)
    _feed(kernel, clock, 5)

    frame = sensor.read(0.0)
    assert frame is not None
    assert len(frame) == 5


def test_a_part_that_is_unplugged_fails_and_comes_back(
    part: Part, source: Make, clock: FakeClock, need: StreamSpec
) -> None:
    """A read fails though nobody is woken; once the part is back, an open goes on."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", need, 0)
    _feed(kernel, clock, 5)
    sensor.read(0.0)
    kernel.unplug()

    with pytest.raises(SourceError, match="does not answer"):
        sensor.read(0.001)
    sensor.close()
    with pytest.raises(SourceError):
        sensor.open("hall", need, 5)
    kernel.plug()
    sensor.open("hall", need, 5)
    _feed(kernel, clock, 5, 5)

    frame = sensor.read(0.0)
    assert frame is not None
    assert frame.index == 5


def test_a_buffer_that_another_program_disables_is_a_failure(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """The kernel says no more than that there is nothing yet; the source looks again."""
    kernel = part()
    sensor = source(kernel)
    sensor.open("hall", need, 0)
    kernel.write(kernel.root / "iio:device0/buffer0/enable", "0")

    with pytest.raises(SourceError, match="the buffer was disabled"):
        sensor.read(0.001)


@pytest.mark.parametrize(
    "name", ["iio:device0", "in_accel_x_en", "enable", "current_timestamp_clock"]
)
def test_missing_permissions_name_the_group(
    part: Part, source: Make, need: StreamSpec, name: str
) -> None:
    """Wherever the user may not write, the message says which group to join."""
    kernel = part()
    faults = kernel.failures if name == "iio:device0" else kernel.refusals
    faults[name] = errno.EACCES

    with pytest.raises(SourceError, match=r"no permission[^\n]*\n.*group iio"):
        source(kernel).open("hall", need, 0)

    faults.clear()
    source(kernel).open("hall", need, 0)


def test_an_unknown_device_lists_those_that_are_there(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """Names and folders are shown; without any device, how to get one."""
    kernel = part()

    with pytest.raises(SourceError, match=r"'bmi160'; expected one of adxl345 \(iio:device0\)"):
        source(kernel, device="bmi160").open("hall", need, 0)
    with pytest.raises(SourceError, match="device-tree overlay"):
        source(kernel, root=kernel.root / "none").open("hall", need, 0)


def test_a_part_without_a_buffer_is_for_polling(part: Part, source: Make, need: StreamSpec) -> None:
    """The message says how."""
    kernel = part()
    shutil.rmtree(kernel.root / "iio:device0/buffer0")

    with pytest.raises(ConfigError, match=r"has no buffer.*\n.*capture: poll"):
        source(kernel).open("hall", need, 0)


def test_kernels_before_5_11_keep_elements_in_a_folder_of_their_own(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """What is in `buffer0` since then was in `buffer` and `scan_elements`."""
    kernel = part()
    device = kernel.root / "iio:device0"
    (device / "scan_elements").mkdir()
    for path in device.glob("buffer0/in_*"):
        path.rename(device / "scan_elements" / path.name)
    (device / "buffer0").rename(device / "buffer")
    (kernel.nodes / "iio:device0").unlink()
    os.mkfifo(kernel.nodes / "iio:device0")
    old = IioSource(
        IioConfig(device="adxl345", channels=AXES, root=kernel.root, nodes=kernel.nodes)
    )

    old.open("hall", need, 0)

    assert kernel.say("scan_elements/in_accel_z_en") == "1"
    assert kernel.say("buffer/enable") == "1"
    old.close()
    assert kernel.say("buffer/enable") == "0"


def test_the_real_calls_read_what_a_driver_writes(part: Part, need: StreamSpec) -> None:
    """Without the stand-in's own calls: plain files, and a FIFO for the character device."""
    kernel = part(is_stamped=False)
    node = kernel.nodes / "iio:device0"
    node.unlink()
    os.mkfifo(node)
    sensor = IioSource(
        IioConfig(device="adxl345", channels=AXES, root=kernel.root, nodes=kernel.nodes)
    )
    sensor.open("hall", need, 0)
    driver = os.open(node, os.O_WRONLY)
    os.write(driver, np.array([[1, -2, 3], [4, 5, -4096]], "<i2").tobytes())

    frame = sensor.read(10.0)
    os.close(driver)

    assert frame is not None
    expected = np.array([[1, -2, 3], [4, 5, -4096]]) * 0.038245935
    np.testing.assert_allclose(frame.samples, expected, rtol=1e-6)
    with pytest.raises(SourceError, match="gave 0 bytes"):
        sensor.read(10.0)
    sensor.close()


def test_a_device_is_found_by_label_and_folder(part: Part, source: Make, need: StreamSpec) -> None:
    """Where two parts have one name, the label or folder tells them apart."""
    kernel = part(files={"label": "accel-display"})
    twin = kernel.root / "iio:device1"
    twin.mkdir()
    (twin / "name").write_text("adxl345\n")

    with pytest.raises(ConfigError, match="stands for iio:device0, iio:device1"):
        source(kernel).open("hall", need, 0)
    for name in ("accel-display", "iio:device0"):
        sensor = source(kernel, device=name)
        sensor.open("hall", need, 0)
        sensor.close()


def test_an_unknown_element_lists_those_that_are_there(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """A channel without an element says how to name one."""
    kernel = part()

    with pytest.raises(
        ConfigError, match=r"no element 'x'; expected one of accel_x, accel_y, accel_z\."
    ):
        source(kernel, channels=None).open("hall", need, 0)
    with pytest.raises(ConfigError, match="channels leaves out y"):
        source(kernel, channels={"x": "accel_x"}).open("hall", need, 0)
    second = {"x": "accel_x:1", "y": "accel_y", "z": "accel_z"}
    with pytest.raises(ConfigError, match=r"number 1 of 'accel_x'.*0 to 0"):
        source(kernel, channels=second).open("hall", need, 0)


def test_an_attribute_the_driver_refuses_is_named(
    part: Part, source: Make, need: StreamSpec
) -> None:
    """The message shows the value and what is available."""
    kernel = part(
        files={"in_accel_scale": "1", "in_accel_range": "2", "in_accel_range_available": "2 4 8"}
    )
    kernel.refusals["in_accel_range"] = errno.EINVAL

    with pytest.raises(ConfigError, match=r"in_accel_range: '3' is not accepted.*expected 2 4 8"):
        source(kernel, attributes={"in_accel_range": 3}).open("hall", need, 0)


def test_no_descriptor_is_left_open(part: Part, source: Make, need: StreamSpec) -> None:
    """Neither a failed nor a closed capture leaves files behind."""
    kernel = part()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is wanted

    for rate_hz in (100.0, 123.0, 100.0):
        sensor = source(kernel)
        try:
            sensor.open("hall", StreamSpec(need.channels, rate_hz), 0)
        except ConfigError:
            continue
        sensor.close()
    kernel.close()

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
