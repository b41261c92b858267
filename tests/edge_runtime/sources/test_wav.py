"""WAV files are delivered as the integers they hold."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, EdgeError, SourceError
from edge_runtime.sources import Recording
from edge_runtime.spec import ChannelSpec, StreamSpec

Make = Callable[..., Recording]
NEED = StreamSpec((ChannelSpec("audio"),), 16_000.0)


def _save(
    path: Path, samples: bytes, *, width: int = 2, channels: int = 1, rate_hz: int = 16_000
) -> None:
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(width)
        file.setnchannels(channels)
        file.setframerate(rate_hz)
        file.writeframes(samples)


@pytest.mark.parametrize(
    ("width", "content", "dtype", "expected"),
    [
        (1, bytes([0, 128, 255]), np.int8, [-128, 0, 127]),
        (2, b"\x00\x80\x00\x00\xff\x7f", np.int16, [-32768, 0, 32767]),
        (3, b"\x00\x00\x80\x01\x00\x00\xff\xff\x7f", np.int32, [-(1 << 23), 1, (1 << 23) - 1]),
        (4, b"\x00\x00\x00\x80\xff\xff\xff\x7f", np.int32, [-(1 << 31), (1 << 31) - 1]),
    ],
)
def test_every_width_keeps_its_integers(
    tmp_path: Path, make: Make, width: int, content: bytes, dtype: type, expected: list[int]
) -> None:
    """Nothing is scaled or rounded; 8 bits lose their offset."""
    _save(tmp_path / "a.wav", content, width=width)
    source = make("wav", "a.wav")

    source.open("s", NEED, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.samples.dtype == dtype
    assert frame.samples[:, 0].tolist() == expected


def test_times_follow_the_sample_rate(tmp_path: Path, make: Make) -> None:
    """Sample k is k / rate after the start."""
    _save(tmp_path / "a.wav", bytes(2 * 16_000))
    source = make("wav", "a.wav", start="2013-01-01T00:00:00Z", block=16_000)

    source.open("s", NEED, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.time_ns[0] == 1_356_998_400_000_000_000
    assert frame.time_ns[1] - frame.time_ns[0] == 62_500
    assert frame.time_ns[-1] - frame.time_ns[0] == 15_999 * 62_500


@pytest.mark.parametrize(("columns", "expected"), [(None, 1), ({"audio": 1}, 2)])
def test_channel_is_chosen_by_number(
    tmp_path: Path, make: Make, columns: dict[str, int] | None, expected: int
) -> None:
    """The first channel by default, another by name in columns."""
    _save(tmp_path / "a.wav", np.array([1, 2, 1, 2], "<i2").tobytes(), channels=2)
    source = make("wav", "a.wav", columns=columns)

    source.open("s", NEED, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.samples[:, 0].tolist() == [expected] * 2


def test_rate_that_does_not_fit_the_model_is_refused(tmp_path: Path, make: Make) -> None:
    """The file's own rate counts."""
    _save(tmp_path / "a.wav", bytes(20), rate_hz=8_000)

    with pytest.raises(ConfigError, match="8000 Hz; expected the model's 16000 Hz") as caught:
        make("wav", "a.wav").open("s", NEED, 0)

    assert "--rate-hz 8000" in caught.value.remedy


def test_channels_that_do_not_fit_the_model_are_refused(tmp_path: Path, make: Make) -> None:
    """A mono file cannot feed a stereo model, and there is no channel 7."""
    _save(tmp_path / "a.wav", bytes(20))
    stereo = StreamSpec((ChannelSpec("l"), ChannelSpec("r")), 16_000.0)

    with pytest.raises(ConfigError, match="has 1 channels; expected at least 2"):
        make("wav", "a.wav").open("s", stereo, 0)
    with pytest.raises(ConfigError, match="no column 7"):
        make("wav", "a.wav", columns={"audio": 7}).open("s", NEED, 0)
    with pytest.raises(ConfigError, match="leaves out the channels audio"):
        make("wav", "a.wav", columns={"x": 0}).open("s", NEED, 0)


def _whole(tmp_path: Path) -> bytes:
    _save(tmp_path / "whole.wav", bytes(1000))
    return (tmp_path / "whole.wav").read_bytes()


@pytest.mark.parametrize("length", [0, 3, 11, 30, 43, 44, 500, 1043])
def test_truncated_file_is_refused(tmp_path: Path, make: Make, length: int) -> None:
    """However a file is cut, it is an error with four parts."""
    (tmp_path / "a.wav").write_bytes(_whole(tmp_path)[:length])

    with pytest.raises(SourceError) as caught:
        make("wav", "a.wav").open("s", NEED, 0)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_what_is_no_pcm_is_refused(tmp_path: Path, make: Make) -> None:
    """Float audio, other files and no file are SourceErrors."""
    content = bytearray(_whole(tmp_path))
    content[20] = 3
    (tmp_path / "float.wav").write_bytes(content)
    (tmp_path / "text.wav").write_text("x,y\n1,2\n")

    for name in ("float.wav", "text.wav", "missing.wav", "."):
        with pytest.raises(EdgeError, match="cannot be read") as caught:
            make("wav", name).open("s", NEED, 0)
        assert isinstance(caught.value, SourceError)
