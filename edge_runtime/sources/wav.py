"""Recordings in WAV (PCM)."""

from __future__ import annotations

import wave
from datetime import UTC, datetime

import numpy as np

from edge_runtime.errors import ConfigError, EdgeError, SourceError
from edge_runtime.sources.columns import choose, position, unreadable
from edge_runtime.sources.instants import Instant, instant_ns
from edge_runtime.sources.recording import Recording, RecordingConfig, Track
from edge_runtime.spec import StreamSpec

__all__ = ["WavConfig", "WavSource", "read_wav"]


class WavConfig(RecordingConfig, frozen=True, kw_only=True):
    """Options of a WAV file; ``columns`` gives channels by number, from 0.

    Attributes:
        start: Time of the first sample.
    """

    start: Instant = datetime(1970, 1, 1, tzinfo=UTC)


class WavSource(Recording):
    """Replays PCM audio as integers: int8, int16, or int32 for 24 and 32 bits."""

    Config = WavConfig

    def __init__(self, config: WavConfig) -> None:
        super().__init__(config, lambda need: read_wav(config, need))


def read_wav(config: WavConfig, need: StreamSpec) -> Track:
    """Read the needed channels, by number or in the model's order.

    Raises:
        ConfigError: There are too few channels.
        SourceError: It is no PCM file, or it is truncated.
    """
    try:
        with wave.open(str(config.path), "rb") as file:
            return _track(file, config, need)
    except EdgeError:
        raise
    except (OSError, EOFError, wave.Error) as error:
        raise unreadable(config.path, error, "a WAV file with PCM samples") from error


def _track(file: wave.Wave_read, config: WavConfig, need: StreamSpec) -> Track:
    content = file.readframes(file.getnframes())
    width, channels, rate_hz = file.getsampwidth(), file.getnchannels(), file.getframerate()
    if len(content) != file.getnframes() * width * channels:
        raise SourceError(
            f"has {len(content)} bytes of samples",
            where=str(config.path),
            expected=f"{file.getnframes() * width * channels}, as its header says",
            remedy="The file is truncated; copy it again.",
        )
    samples = _integers(content, width).reshape(-1, channels)
    chosen = np.ascontiguousarray(samples[:, _places(config, need, channels)])
    time_ns = np.rint(np.arange(len(chosen)) * (1e9 / rate_hz)).astype(np.int64)
    return Track(instant_ns(config.start) + time_ns, chosen, float(rate_hz))


def _places(config: WavConfig, need: StreamSpec, channels: int) -> list[int]:
    if config.columns:
        names = [str(i) for i in range(channels)]
        return [position(place, names, config.path) for place in choose(config, need)]
    if channels < len(need.names):
        raise ConfigError(
            f"the recording has {channels} channels",
            where=str(config.path),
            expected=f"at least {len(need.names)}: {', '.join(need.names)}",
            remedy="Use another recording, or another model.",
        )
    return list(range(len(need.names)))


def _integers(content: bytes, width: int) -> np.ndarray:
    if width == 1:
        # 8-bit WAV is unsigned with its zero at 128.
        return (np.frombuffer(content, np.uint8) ^ 0x80).view(np.int8)
    if width == 3:
        padded = np.zeros((len(content) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return padded.reshape(-1).view("<i4") >> 8
    return np.frombuffer(content, f"<i{width}")
