"""The stand-in for the kernel refuses what the kernel refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.testing.iio import FakeIio

NODE = "iio:device0"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeIio]:
    made = FakeIio(
        tmp_path,
        elements={"a": "le:s4/8>>2", "b": "be:u16/16>>0"},
        rates_hz=(10.0, 20.0),
        triggers=("tick",),
        is_stamped=False,
    )
    yield made
    made.close()


def _write(kernel: FakeIio, name: str, text: str) -> None:
    kernel.write(kernel.root / NODE / name, text)


def _start(kernel: FakeIio, *, length: int = 4, watermark: int = 2) -> int:
    file = kernel.open(kernel.nodes / NODE)
    settings = {"in_a_en": 1, "in_b_en": 1, "length": length, "watermark": watermark}
    for name, value in settings.items():
        _write(kernel, f"buffer0/{name}", str(value))
    _write(kernel, "trigger/current_trigger", "tick")
    _write(kernel, "buffer0/enable", "1")
    return file


def _errno(kernel: FakeIio, name: str, text: str) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
        _write(kernel, name, text)
    return caught.value.errno


def test_scans_are_packed_with_junk_around_the_valid_bits(kernel: FakeIio) -> None:
    """Four bits of -3 above two spare ones, then padding, then the wide number."""
    file = _start(kernel, watermark=1)
    kernel.feed([(-3, 0x1234)])

    assert kernel.take(file, 64) == bytes([0b11110111, 0, 0x12, 0x34])
    os.close(file)


def test_a_character_device_opens_once(kernel: FakeIio) -> None:
    """And again once it was closed."""
    file = kernel.open(kernel.nodes / NODE)
    with pytest.raises(OSError, match="busy"):
        kernel.open(kernel.nodes / NODE)
    os.close(file)

    os.close(kernel.open(kernel.nodes / NODE))


def test_nothing_else_can_be_set_while_the_buffer_runs(kernel: FakeIio) -> None:
    """The kernel says EBUSY, but takes an end of the capture."""
    file = _start(kernel)

    for name in ("buffer0/in_a_en", "buffer0/length", "trigger/current_trigger"):
        assert _errno(kernel, name, "1") == errno.EBUSY
    _write(kernel, "buffer0/enable", "0")
    _write(kernel, "buffer0/length", "8")
    os.close(file)


def test_wrong_values_are_refused(kernel: FakeIio) -> None:
    """Rates, watermarks, a start without elements or without a trigger."""
    assert _errno(kernel, "sampling_frequency", "15") == errno.EINVAL
    assert _errno(kernel, "buffer0/watermark", "3") == errno.EINVAL
    _write(kernel, "trigger/current_trigger", "tick")
    assert _errno(kernel, "buffer0/enable", "1") == errno.EINVAL
    _write(kernel, "buffer0/in_a_en", "1")
    _write(kernel, "trigger/current_trigger", "tock")
    assert kernel.say("trigger/current_trigger") == ""
    assert _errno(kernel, "buffer0/enable", "1") == errno.EINVAL
    assert _errno(kernel, "buffer0/in_c_en", "1") == errno.ENOENT


def test_a_full_buffer_drops_what_comes(kernel: FakeIio) -> None:
    """The oldest samples stay."""
    file = _start(kernel, length=3)

    found_room = kernel.feed([(0, number) for number in range(5)])

    assert (found_room, kernel.overruns) == (3, 2)
    assert kernel.take(file, 64)[3::4] == bytes([0, 1, 2])
    os.close(file)


def test_a_part_that_is_away_answers_nothing(kernel: FakeIio) -> None:
    """ENODEV from every call; after its return the buffer is disabled."""
    file = _start(kernel)
    kernel.unplug()

    with pytest.raises(OSError, match="No such device"):
        kernel.take(file, 64)
    with pytest.raises(OSError, match="No such device"):
        kernel.read(kernel.root / NODE / "name")
    kernel.plug()
    assert kernel.say("buffer0/enable") == "0"
    with pytest.raises(BlockingIOError):
        kernel.take(file, 64)
    os.close(file)
