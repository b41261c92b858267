"""The calls to the real kernel, on real files and a FIFO."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.errors import SourceError
from edge_runtime.sources.iio.kernel import Attributes, Linux


def test_attributes_are_read_and_written_in_one_call(tmp_path: Path) -> None:
    """Nothing but the text passes, without the newline."""
    path = tmp_path / "name"
    path.write_text("adxl345\n")
    kernel = Linux()

    assert kernel.read(path) == "adxl345"
    kernel.write(path, "adxl355")
    assert path.read_text() == "adxl355\n"


def test_an_attribute_that_is_missing_is_never_made(tmp_path: Path) -> None:
    """A write to a wrong name fails, as in sysfs."""
    with pytest.raises(FileNotFoundError):
        Linux().write(tmp_path / "enable", "1")

    assert list(tmp_path.iterdir()) == []


def test_a_character_device_does_not_block(tmp_path: Path) -> None:
    """What is there comes at once; where nothing is, the call says so."""
    path = tmp_path / "node"
    os.mkfifo(path)
    kernel = Linux()
    file = kernel.open(path)
    writer = os.open(path, os.O_WRONLY)

    with pytest.raises(BlockingIOError):
        kernel.take(file, 64)
    os.write(writer, b"abcdef")
    assert kernel.take(file, 64) == b"abcdef"
    os.close(writer)
    assert kernel.take(file, 64) == b""
    os.close(file)


def test_an_attribute_that_says_no_number_is_named(tmp_path: Path) -> None:
    """The message shows the file and its text."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part/in_temp_scale").write_text("fast\n")

    with pytest.raises(SourceError, match=r"in_temp_scale: says 'fast'; expected numbers"):
        Attributes(Linux(), tmp_path, "part").numbers("in_temp_scale")
