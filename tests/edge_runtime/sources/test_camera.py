"""A camera's pictures become images with the driver's times; what is lost is told."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.errors import ConfigError, MissingExtra, SourceError
from edge_runtime.pipeline.windows import Cutter
from edge_runtime.quality import Quality
from edge_runtime.sources.camera import CameraConfig, CameraSource
from edge_runtime.spec import ChannelSpec, ImageSpec, StreamSpec, WindowSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.v4l2 import FakeVideo
from edge_runtime.types import Frame

LINES, RATE = 8, 10.0
NEED = StreamSpec(
    tuple(ChannelSpec(f"c{number}") for number in range(24)), RATE * LINES, ImageSpec(LINES, 8)
)
PERIOD_NS = 100_000_000
SIZE = (32, 16)
MODES = {("YUYV", *SIZE): RATE, ("MJPG", *SIZE): RATE, ("MJPG", 64, 48): 30.0}


def _yuyv(number: int) -> bytes:
    """Make a grey picture whose shade tells its number."""
    pixels = np.full((SIZE[1], SIZE[0], 2), 128, np.uint8)
    pixels[:, :, 0] = 16 + number % 200
    return pixels.tobytes()


def _shade(frame: Frame) -> int:
    """Return the number of a picture that `_yuyv` made."""
    return round(int(frame.samples[0, 0]) * 219 / 255)


class Stage:
    """A camera, a source that looks through it, and a clock between them."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.video = FakeVideo(MODES, _yuyv, clock=self.clock)
        config = {"width": SIZE[0], "height": SIZE[1], **options}
        self.source = CameraSource(CameraConfig(**config), clock=self.clock, kernel=self.video)

    def open(self, index: int = 0) -> None:
        self.source.open("s", NEED, index)

    def shoot(self, count: int = 1, *, period_s: float = 0.1, is_damaged: bool = False) -> None:
        for _ in range(count):
            self.clock.advance(period_s)
            self.video.take_picture(is_damaged=is_damaged)

    def frames(self) -> list[Frame]:
        """Return everything that can be read now."""
        found = []
        while (frame := self.source.read(0.0)) is not None:
            found.append(frame)
        return found

    def played(self, count: int) -> list[Frame]:
        """Take pictures and read each at once."""
        found = []
        for _ in range(count):
            self.shoot()
            found += self.frames()
        return found


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_picture_becomes_one_frame_of_lines(stage: Stage) -> None:
    """The last line has the time of the picture; images follow each other without a gap."""
    stage.open(index=40)

    frames = stage.played(3)

    assert [frame.index for frame in frames] == [40, 48, 56]
    assert [_shade(frame) for frame in frames] == [0, 1, 2]
    assert frames[0].samples.shape == (LINES, 24) and frames[0].samples.dtype == np.uint8
    times = np.concatenate([frame.time_ns for frame in frames])
    assert times[-1] == stage.clock.now_ns()
    assert (np.diff(times) == PERIOD_NS // LINES).all()


def test_a_picture_that_is_read_late_keeps_the_time_of_the_driver(stage: Stage) -> None:
    """The queue of the driver does not shift event times."""
    stage.open()
    stage.shoot(3)
    taken_ns = stage.clock.now_ns()
    stage.clock.advance(0.2)

    frames = stage.frames()

    assert len(frames) == 3
    assert frames[-1].time_ns[-1] == taken_ns


def test_pictures_that_nobody_fetches_are_lost_counted_and_make_a_gap(stage: Stage) -> None:
    """The driver has four buffers; its sequence number tells the rest."""
    stage.open()
    stage.shoot(9)
    frames = [*stage.frames(), *stage.played(1)]

    assert [_shade(frame) for frame in frames] == [0, 1, 2, 3, 9]
    assert stage.source.health().lost_samples == 5 * LINES
    assert [frame.quality is None for frame in frames] == [True] * 4 + [False]
    assert frames[-1].quality is not None
    assert frames[-1].quality.tolist() == [Quality.LOST_BEFORE] + [0] * (LINES - 1)
    gap_ns = int(frames[-1].time_ns[0] - frames[-2].time_ns[-1])
    assert gap_ns == 5 * PERIOD_NS + PERIOD_NS // LINES


def test_a_damaged_picture_is_lost_and_counted(stage: Stage) -> None:
    """The next one tells that one is missing."""
    stage.open()
    frames = stage.played(1)
    stage.shoot(is_damaged=True)
    frames += [*stage.frames(), *stage.played(1)]

    assert [_shade(frame) for frame in frames] == [0, 2]
    assert stage.source.health().faults == {"damaged": 1}
    assert stage.source.health().lost_samples == LINES


def test_a_picture_that_is_too_short_is_damaged() -> None:
    """However the driver marks it."""
    stage = Stage()
    stage.video = FakeVideo(MODES, lambda _: b"\x10" * 100, clock=stage.clock)
    config = CameraConfig(width=SIZE[0], height=SIZE[1], format="yuyv")
    stage.source = CameraSource(config, clock=stage.clock, kernel=stage.video)
    stage.open()

    assert stage.played(2) == []
    assert stage.source.health().faults == {"damaged": 2}


def test_a_picture_that_never_changes_is_noted() -> None:
    """A living sensor has noise: the same image again and again is none."""
    stage = Stage()
    stage.video = FakeVideo(MODES, lambda _: _yuyv(5), clock=stage.clock)
    config = CameraConfig(width=SIZE[0], height=SIZE[1], frozen_s=0.4)
    stage.source = CameraSource(config, clock=stage.clock, kernel=stage.video)
    stage.open()

    frames = stage.played(6)

    assert stage.source.health().faults == {"frozen": 2}
    masks = [None if frame.quality is None else frame.quality.tolist() for frame in frames]
    assert masks == [None] * 4 + [[Quality.FROZEN] * LINES] * 2


def _jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", SIZE, (number, 100, 200)).save(file, "JPEG", quality=95)
    return file.getvalue()


def _raw(number: int) -> bytes:
    return np.tile(np.array([number, 100, 200], np.uint8), SIZE[0] * SIZE[1]).tobytes()


@pytest.mark.parametrize(
    ("code", "picture", "colour"),
    [
        ("MJPG", _jpeg, (0, 100, 200)),
        ("RGB3", _raw, (0, 100, 200)),
        ("GREY", lambda _: bytes([77]) * SIZE[0] * SIZE[1], (77, 77, 77)),
    ],
)
def test_every_format_gives_its_colours(code: str, picture: Any, colour: Sequence[int]) -> None:
    """Red, green and blue, within what JPEG rounds."""
    clock = FakeClock()
    video = FakeVideo({(code, *SIZE): RATE}, picture, clock=clock)
    source = CameraSource(CameraConfig(width=SIZE[0], height=SIZE[1]), clock=clock, kernel=video)
    source.open("s", NEED, 0)
    video.take_picture()

    frame = source.read(0.0)

    assert frame is not None
    assert np.abs(frame.samples.reshape(-1, 3).astype(int) - colour).max() <= 3


def test_bytes_that_pad_the_lines_are_no_pixels() -> None:
    """Drivers align lines as their hardware likes it."""
    clock = FakeClock()

    def picture(_: int) -> bytes:
        rows = np.zeros((SIZE[1], SIZE[0] + 24), np.uint8)
        rows[:, : SIZE[0]] = 50
        return rows.tobytes()

    video = FakeVideo({("GREY", *SIZE): RATE}, picture, clock=clock, padding=24)
    source = CameraSource(CameraConfig(width=SIZE[0], height=SIZE[1]), clock=clock, kernel=video)
    source.open("s", NEED, 0)
    video.take_picture()

    frame = source.read(0.0)

    assert frame is not None and (frame.samples == 50).all()


def test_colours_follow_what_the_driver_says_of_them() -> None:
    """Luma 16 is black in limited range, and nearly so in full range."""
    shades = []
    for colours in [(8, 0, 0), (7, 0, 0), (8, 0, 1), (7, 0, 2)]:
        stage = Stage()
        stage.video.colours = colours
        stage.open()
        shades.append(int(stage.played(1)[0].samples[0, 0]))

    assert shades == [0, 16, 16, 0]


def test_one_of_several_pictures_may_be_enough() -> None:
    """A camera of 30 pictures a second feeds a model of 10 images a second."""
    stage = Stage(every=3)
    stage.video = FakeVideo({("YUYV", *SIZE): 30.0}, _yuyv, clock=stage.clock)
    config = CameraConfig(width=SIZE[0], height=SIZE[1], every=3)
    stage.source = CameraSource(config, clock=stage.clock, kernel=stage.video)
    stage.open()

    frames = []
    for _ in range(10):
        stage.shoot(period_s=1 / 30)
        frames += stage.frames()
    stage.video.skip(7)
    for _ in range(4):
        stage.shoot(period_s=1 / 30)
        frames += stage.frames()

    assert [_shade(frame) for frame in frames] == [0, 3, 6, 9, 18]
    assert stage.source.health().lost_samples == 2 * LINES


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(-0.02, 0.02)), max_size=20))
def test_no_window_mixes_pictures_and_no_loss_goes_unnoticed(
    story: list[tuple[int, bool, float]],
) -> None:
    """Whatever is lost, damaged or shaken: whole images, growing times, a gap for each loss."""
    stage = Stage()
    stage.open()
    frames = stage.played(1)
    began_ns, periods = stage.clock.monotonic_ns(), 0
    for lost, is_damaged, jitter_s in [*story, (0, False, 0.0)]:
        periods += 1 + lost
        stage.video.skip(lost)
        due_s = (began_ns - stage.clock.monotonic_ns()) / 1e9 + 0.1 * periods
        stage.shoot(period_s=due_s + jitter_s, is_damaged=is_damaged)
        frames += stage.frames()
    cutter = Cutter(WindowSpec(LINES, LINES), NEED)

    windows = [part for frame in frames for part in cutter.cut(frame)]

    assert not any(cutter.discarded.values())
    assert len(windows) == len(frames)
    assert all(len(np.unique(part.samples)) == 1 for part in windows)
    numbers = [_shade(frame) for frame in frames]
    missing = np.diff(numbers) - 1
    assert stage.source.health().lost_samples == missing.sum() * LINES
    assert [part.is_fresh for part in windows[1:]] == [bool(one) for one in missing]


def test_a_sequence_number_that_begins_anew_is_no_loss(stage: Stage) -> None:
    """Some drivers reset it; it also wraps at 32 bits."""
    stage.open()
    stage.played(1)
    stage.video.skip((1 << 32) - 2)
    stage.played(1)
    stage.video.skip(-(1 << 32))
    frames = stage.played(2)
    stage.video.skip(-2)
    frames += stage.played(2)

    assert len(frames) == 4


def test_an_unplugged_camera_fails_and_can_be_opened_again(stage: Stage) -> None:
    """The index goes on, and what happened before stays counted."""
    stage.open()
    stage.played(2)
    stage.shoot(is_damaged=True)
    stage.frames()
    stage.video.unplug()

    with pytest.raises(SourceError, match="No such device") as caught:
        stage.source.read(1.0)
    stage.source.close()
    with pytest.raises(SourceError, match="Plug the camera in"):
        stage.open(16)
    stage.video.plug()
    stage.open(16)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
    assert stage.played(1)[0].index == 16
    assert stage.source.health().faults == {"damaged": 1}
    assert stage.video.opened == 1


def test_a_camera_that_shows_nothing_has_failed(stage: Stage) -> None:
    """After five seconds somebody should try again."""
    stage.open()
    stage.played(1)
    stage.clock.advance(5.5)

    with pytest.raises(SourceError, match=r"/dev/video0: nothing has come for 5\.5 s"):
        stage.source.read(0.0)


@pytest.mark.parametrize(
    ("request_", "number", "message"),
    [
        ("open", errno.EACCES, "usermod -aG video"),
        ("open", errno.EBUSY, "fuser -v"),
        ("VIDIOC_S_FMT", errno.EBUSY, "does not take format YUYV"),
        ("VIDIOC_REQBUFS", errno.EBUSY, "Another program uses the camera"),
        ("VIDIOC_STREAMON", errno.ENOSPC, "no room for this stream"),
    ],
)
def test_a_camera_that_cannot_be_used_says_why(
    stage: Stage, request_: str, number: int, message: str
) -> None:
    """Nothing stays open, and it works once the reason is gone."""
    stage.video.failures = {request_: number}

    with pytest.raises(SourceError, match=message):
        stage.open()

    assert stage.video.opened == 0
    stage.video.failures = {}
    stage.open()
    assert len(stage.played(1)) == 1


def test_a_node_without_pictures_is_refused(stage: Stage) -> None:
    """The second node of a USB camera delivers metadata alone."""
    stage.video.abilities = 0x0400_0000

    with pytest.raises(ConfigError, match="delivers no pictures"):
        stage.open()

    assert stage.video.opened == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 640}, r"YUYV 32x16, 10 images a second \(sizes: 32x16\)"),
        ({"format": "rgb3"}, "only the formats YUYV, MJPG"),
        ({"width": 64, "height": 48, "format": "mjpg", "every": 2}, "MJPG 64x48, 15 images"),
    ],
)
def test_what_the_camera_does_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    """It tells what there is instead."""
    stage = Stage(**options)
    stage.video = FakeVideo({**MODES, ("MJPG", 64, 48): 15.0}, _yuyv)
    config = {"width": SIZE[0], "height": SIZE[1], **options}
    stage.source = CameraSource(CameraConfig(**config), kernel=stage.video)

    with pytest.raises(ConfigError, match=message) as caught:
        stage.open()

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
    assert stage.video.opened == 0


def test_a_camera_that_is_a_whole_number_too_fast_is_told_how_to_be_used() -> None:
    """No picture is left out unless somebody says so."""
    source = CameraSource(
        CameraConfig(width=SIZE[0], height=SIZE[1]),
        kernel=FakeVideo({("YUYV", *SIZE): 30.0}, _yuyv),
    )
    slow = StreamSpec(NEED.channels, 5.0 / 6 * LINES, NEED.image)

    with pytest.raises(ConfigError, match="Set every 6 times as high"):
        source.open("s", slow, 0)


def test_close_wakes_a_read_that_waits(stage: Stage) -> None:
    """From another thread, at once; a closed source delivers nothing."""
    stage.open()
    closing = threading.Timer(0.05, stage.source.close)
    closing.start()

    assert stage.source.read(60.0) is None
    closing.join()
    assert stage.video.opened == 0
    assert stage.source.read(60.0) is None


class FakePicamera2:
    """The parts of picamera2 that are used; pictures come when the test says so."""

    def __init__(self, number: int) -> None:
        if number > 0:
            raise IndexError("list index out of range")
        self.camera_controls = {"FrameDurationLimits": (33_333, 120_000_000, None)}
        self.post_callback: Any = None
        self.asked: dict[str, Any] = {}
        self.running: list[str] = []
        FakePicamera2.last = self

    def create_video_configuration(self, **asked: Any) -> dict[str, Any]:
        return asked

    def configure(self, asked: dict[str, Any]) -> None:
        self.asked = asked

    def start(self) -> None:
        self.running.append("started")

    def stop(self) -> None:
        self.running.append("stopped")

    def close(self) -> None:
        self.running.append("closed")

    def deliver(self, taken_ns: int, shade: int) -> None:
        width, height = self.asked["main"]["size"]
        pixels = np.full((height, width, 3), shade, np.uint8)
        self.post_callback(
            SimpleNamespace(
                get_metadata=lambda: {"SensorTimestamp": taken_ns},
                make_array=lambda name: pixels if name == "main" else None,
            )
        )

    last: FakePicamera2


def _module() -> Any:
    return SimpleNamespace(Picamera2=FakePicamera2)


def _pi(**options: Any) -> tuple[CameraSource, FakeClock]:
    clock = FakeClock()
    config = CameraConfig(through="picamera2", **options)
    return CameraSource(config, clock=clock, picamera2=_module()), clock


def test_a_camera_module_is_asked_for_the_models_rate() -> None:
    """Its frame duration is fixed, and the bytes are red, green and blue."""
    source, _ = _pi(width=64, height=48)
    source.open("s", NEED, 0)

    asked = FakePicamera2.last.asked

    assert asked["main"] == {"size": (64, 48), "format": "BGR888"}
    assert asked["controls"] == {"FrameDurationLimits": (100_000, 100_000)}
    source.close()
    source.close()
    assert FakePicamera2.last.running == ["started", "stopped", "closed"]


def test_pictures_of_a_camera_module_have_the_sensors_times() -> None:
    """A time stamp that jumps tells how many were lost."""
    source, clock = _pi()
    source.open("s", NEED, 0)
    frames = []
    for number in [1, 2, 5]:
        clock.advance(number / 10 - clock.monotonic_ns() / 1e9)
        FakePicamera2.last.deliver(number * PERIOD_NS, number)
        frames.append(source.read(0.0))

    times = [int(frame.time_ns[-1]) for frame in frames if frame]
    assert np.diff(times).tolist() == [PERIOD_NS, 3 * PERIOD_NS]
    assert source.health().lost_samples == 2 * LINES


def test_a_camera_module_that_is_not_there_is_told() -> None:
    """Or one that cannot be so slow, or no library at all."""
    source, _ = _pi(number=1)
    with pytest.raises(SourceError, match="list-cameras"):
        source.open("s", NEED, 0)

    fast = StreamSpec(NEED.channels, 60.0 * LINES, NEED.image)
    source, _ = _pi()
    with pytest.raises(ConfigError, match=r"takes 0\.00833 to 30 images a second"):
        source.open("s", fast, 0)
    assert FakePicamera2.last.running == ["stopped", "closed"]

    with pytest.raises(MissingExtra, match="apt install python3-picamera2"):
        CameraSource(CameraConfig(through="picamera2")).open("s", NEED, 0)


def test_a_picture_that_finds_no_room_is_lost() -> None:
    """Two wait; the library's thread never does."""
    source, clock = _pi()
    source.open("s", NEED, 0)
    for number in range(1, 6):
        clock.advance(0.1)
        FakePicamera2.last.deliver(number * PERIOD_NS, number)
    read = [source.read(0.0) for _ in range(3)]
    clock.advance(0.1)
    FakePicamera2.last.deliver(6 * PERIOD_NS, 6)
    read.append(source.read(0.0))

    assert [int(frame.samples[0, 0]) if frame else None for frame in read] == [1, 2, None, 6]
    assert source.health().lost_samples == 3 * LINES


def test_the_device_node_is_a_path() -> None:
    """So that names in /dev/v4l/by-id work as well."""
    assert CameraConfig().device == Path("/dev/video0")
