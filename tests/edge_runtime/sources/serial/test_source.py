"""A serial port, against a pseudo-terminal."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import ConfigError, MissingExtra, SourceError
from edge_runtime.quality import Quality, joined_masks
from edge_runtime.sources.serial import SerialConfig, SerialSource
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.serial import FakeSerial
from edge_runtime.types import Frame

NEED = StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 10.0)
LINES = {"kind": "delimited", "fields": ["x", "y"]}
NUMBERED = {"kind": "delimited", "fields": ["n", "x", "y"]}
PERIOD_NS = 100_000_000
PATIENCE_S = 60.0


@pytest.fixture
def port(tmp_path: Path) -> Iterator[FakeSerial]:
    made = FakeSerial(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def source(port: FakeSerial, clock: FakeClock) -> Iterator[Callable[..., SerialSource]]:
    """Make a source; closed at the end."""
    made = []

    def make(*, seams: dict[str, Any] | None = None, **options: Any) -> SerialSource:
        given: dict[str, Any] = {"format": LINES} | options
        if "usb" not in given:
            given.setdefault("port", str(port.port))
        config = msgspec.convert(given, SerialConfig)
        made.append(SerialSource(config, clock=clock, **(seams or {})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _read(source: SerialSource, samples: int) -> Frame:
    """Read until so many samples have come, as one frame."""
    frames: list[Frame] = []
    while sum(map(len, frames)) < samples:
        frame = source.read(PATIENCE_S)
        assert frame is not None, "the terminal gives what was sent"
        frames.append(frame)
    return Frame(
        frames[0].stream,
        frames[0].index,
        np.concatenate([frame.time_ns for frame in frames]),
        np.concatenate([frame.samples for frame in frames]),
        frames[0].clock,
        frames[0].step_ns if len(frames) == 1 else None,
        joined_masks((frame.quality, len(frame)) for frame in frames),
    )


def test_lines_become_samples(port: FakeSerial, source: Callable[..., SerialSource]) -> None:
    """In the model's order, with times one period apart."""
    sensor = source()
    sensor.open("shed", StreamSpec(NEED.channels[::-1], 10.0), 7)

    port.send(b"boot\n1.5,2\r\n3,4\r\n")
    frame = _read(sensor, 2)

    assert (frame.stream, frame.index) == ("shed", 7)
    assert frame.samples.tolist() == [[2.0, 1.5], [4.0, 3.0]]
    assert np.diff(frame.time_ns).tolist() == pytest.approx([PERIOD_NS], rel=0.1)


def test_binary_frames_become_samples(
    port: FakeSerial, source: Callable[..., SerialSource]
) -> None:
    """The same through sync bytes, numbers and checksum."""
    form = {
        "kind": "binary",
        "sync": "aa",
        "layout": ">hb",
        "fields": ["x", "y"],
        "checksum": "xor8",
    }
    sensor = source(format=form)
    sensor.open("shed", NEED, 0)

    port.send(bytes([0xAA, 1, 0, 5, 1 ^ 0 ^ 5, 0xAA, 255, 255, 251, 255 ^ 255 ^ 251]))

    assert _read(sensor, 2).samples.tolist() == [[256.0, 5.0], [-1.0, -5.0]]


def test_a_gap_in_the_numbers_is_a_jump_in_time(
    port: FakeSerial, source: Callable[..., SerialSource], clock: FakeClock
) -> None:
    """Lost messages are counted, and no window will span them; the index counts what came."""
    sensor = source(format=NUMBERED, sequence={"field": "n", "modulus": 256})
    sensor.open("shed", NEED, 0)

    port.send(b"\n254,0,0\n255,1,1\n3,2,2\n4,3,3\n")
    frame = _read(sensor, 4)

    assert frame.samples[:, 0].tolist() == [0, 1, 2, 3]
    assert sensor.health().lost_samples == 3
    assert frame.quality is not None
    assert frame.quality.tolist() == [0, 0, Quality.LOST_BEFORE, 0]
    np.testing.assert_allclose(np.diff(frame.time_ns) / PERIOD_NS, [1, 4, 1], atol=0.1)


def test_saturated_and_frozen_readings_are_kept_counted_and_marked(
    port: FakeSerial, source: Callable[..., SerialSource]
) -> None:
    """The configuration knows the ends of the scale, and whether the sensor may stand still."""
    sensor = source(frozen_s=0.3, full_scale={"y": [-5, 5]})
    sensor.open("shed", NEED, 0)

    port.send(b"\n9,5\n9,-5\n9,0\n9,0\n9,0\n9,0\n8,0\n")
    frame = _read(sensor, 7)

    assert frame.samples[:2].tolist() == [[9, 5], [9, -5]]
    assert frame.quality is not None
    assert frame.quality.tolist() == [1, 1, 0, 0, 0, Quality.FROZEN, 0]
    assert sensor.health().faults == {"framing": 1, "saturated": 2, "frozen": 1}


@pytest.mark.parametrize("form", [LINES, {"kind": "key_value"}])
def test_a_scale_of_an_unknown_channel_is_refused(
    source: Callable[..., SerialSource], form: dict[str, Any]
) -> None:
    """At the latest when the model's channels are known."""
    refused = (ConfigError, msgspec.ValidationError)
    with pytest.raises(refused, match="full_scale names 'z'; expected one of x, y"):
        source(format=form, full_scale={"z": [0, 1]}).open("shed", NEED, 0)


def test_noise_is_counted_and_the_stream_goes_on(
    port: FakeSerial, source: Callable[..., SerialSource]
) -> None:
    """A wrong baud rate, a log message and a short line between good ones."""
    sensor = source()
    sensor.open("shed", NEED, 0)

    port.send(b"\n1,2\n\xfe\x80\x1b\nhello\n3\n5,6\n")

    assert _read(sensor, 2).samples.tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert sensor.health().faults == {"framing": 2, "unparsable": 2}


def test_what_was_sent_before_the_open_is_not_read(
    port: FakeSerial, source: Callable[..., SerialSource]
) -> None:
    """Nobody knows how old it is."""
    port.send(b"\n8,8\n9,9\n")
    sensor = source()
    sensor.open("shed", NEED, 0)

    port.send(b"\n1,2\n")

    assert _read(sensor, 1).samples.tolist() == [[1.0, 2.0]]


def test_an_adapter_that_vanishes_fails_and_comes_back_under_another_number(
    port: FakeSerial, source: Callable[..., SerialSource]
) -> None:
    """The name by id leads to the new node, and the index goes on."""
    sensor = source()
    sensor.open("shed", NEED, 0)
    port.send(b"\n1,2\n")
    _read(sensor, 1)
    port.unplug()

    with pytest.raises(SourceError, match="the port has gone away"):
        sensor.read(PATIENCE_S)
    with pytest.raises(SourceError, match=r"usb-sensor: there is no such port"):
        sensor.open("shed", NEED, 1)
    port.plug()
    sensor.open("shed", NEED, 1)
    port.send(b"\n3,4\n")

    again = _read(sensor, 1)
    assert again.index == 1
    assert again.samples.tolist() == [[3.0, 4.0]]


def test_an_adapter_is_found_by_its_numbers(
    port: FakeSerial, source: Callable[..., SerialSource]
) -> None:
    """Vendor, product and serial number lead to the node of the moment."""
    listed = [
        SimpleNamespace(device="/dev/ttyS0", vid=None, pid=None, serial_number=None),
        SimpleNamespace(device="/dev/ttyUSB1", vid=0x403, pid=0x6001, serial_number="B"),
        SimpleNamespace(device=port.node, vid=0x403, pid=0x6001, serial_number="A"),
    ]
    usb = {"vid": 0x403, "pid": 0x6001}
    seams = {"list_ports": lambda: listed}
    sensor = source(usb=usb | {"serial": "A"}, seams=seams)
    sensor.open("shed", NEED, 0)
    port.send(b"\n1,2\n")

    assert _read(sensor, 1).samples.tolist() == [[1.0, 2.0]]
    with pytest.raises(ConfigError, match=r"0403:6001 stands for /dev/pts/\d+, /dev/ttyUSB1"):
        source(usb=usb, seams=seams).open("shed", NEED, 0)
    with pytest.raises(SourceError, match=r"0403:6001 C: .*one of .*ttyUSB1 \(usb 0403:6001 B\)"):
        source(usb=usb | {"serial": "C"}, seams=seams).open("shed", NEED, 0)


def test_a_port_in_use_says_so(source: Callable[..., SerialSource]) -> None:
    """Two readers of one port would each get half of the bytes."""
    source().open("shed", NEED, 0)

    with pytest.raises(SourceError, match="another program has it open"):
        source().open("shed", NEED, 0)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, r"in the group \w+\.\n.*usermod -aG"),
        (errno.EIO, "gone away"),
        (errno.ENXIO, "no such port"),
        (errno.EINVAL, r"cannot be set up.*115200 baud.*parity even"),
    ],
)
def test_a_port_that_cannot_be_opened_says_why(
    source: Callable[..., SerialSource], number: int, message: str
) -> None:
    """Permissions name the group, settings name themselves."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    kind = ConfigError if number == errno.EINVAL else SourceError

    with pytest.raises(kind, match=message):
        source(parity="even", seams={"connect": refuse}).open("shed", NEED, 0)


def test_without_permission_the_usual_group_is_dialout(
    source: Callable[..., SerialSource],
) -> None:
    """Where the node itself belongs to root, or is gone."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(SourceError, match="sudo usermod -aG dialout"):
        source(port="/nowhere/ttyUSB0", seams={"connect": refuse}).open("shed", NEED, 0)


def test_a_file_is_no_port(source: Callable[..., SerialSource], tmp_path: Path) -> None:
    """The message shows what was tried."""
    path = tmp_path / "log.txt"
    path.write_text("1,2\n")

    with pytest.raises(ConfigError, match=r"log\.txt: it cannot be set up"):
        source(port=str(path)).open("shed", NEED, 0)


def test_a_missing_channel_is_told_before_the_port_is_opened(
    source: Callable[..., SerialSource],
) -> None:
    """The nearest field is named."""
    need = StreamSpec((ChannelSpec("x"), ChannelSpec("z")), 10.0)

    with pytest.raises(
        ConfigError, match="have no field 'z'; expected the channels x, z, among x, y"
    ):
        source(port="/nowhere").open("shed", need, 0)


def test_a_missing_library_names_the_install_line(
    source: Callable[..., SerialSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is an extra."""
    monkeypatch.setitem(sys.modules, "serial", None)

    with pytest.raises(MissingExtra, match=r'pip install "edge-runtime\[serial\]"'):
        source().open("shed", NEED, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither port nor usb"),
        ({"port": "/dev/ttyS0", "usb": {"vid": 1, "pid": 2}}, "both given"),
        ({"port": "/dev/ttyS0", "sequence": {"field": "n"}}, "sequence.field is 'n'"),
        ({"port": "p", "sequence": {"field": "x", "modulus": 4, "step": 2}}, "half the modulus"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, Any], message: str) -> None:
    """Before anything is opened."""
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({"format": LINES} | options, SerialConfig)


def test_a_read_never_takes_longer_than_it_may(source: Callable[..., SerialSource]) -> None:
    """A silent sensor is no error."""
    sensor = source()
    sensor.open("shed", NEED, 0)

    assert sensor.read(0.0) is None
    assert sensor.read(0.01) is None


def test_no_descriptor_is_left_open(source: Callable[..., SerialSource]) -> None:
    """Not after a close, and not after a failed open."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is wanted
    sensor = source()
    for _ in range(3):
        sensor.open("shed", NEED, 0)
    with pytest.raises(SourceError):
        source().open("shed", NEED, 0)
    sensor.close()

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_closing_from_many_threads_is_safe(source: Callable[..., SerialSource]) -> None:
    """Everybody may close at once, while a read waits."""
    sensor = source()
    sensor.open("shed", NEED, 0)
    threads = [threading.Thread(target=sensor.close) for _ in range(4)]
    for thread in threads:
        thread.start()

    assert sensor.read(PATIENCE_S) is None
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
