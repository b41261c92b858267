"""Live sound from a microphone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.sources.live import Health, SampleClock
from edge_runtime.sources.microphones import (
    ArecordMicrophone,
    Heard,
    Microphone,
    PortAudioMicrophone,
    Sound,
)
from edge_runtime.sources.suspects import Frozen, Patience, note_suspects
from edge_runtime.sources.waking import Holder, Silence
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["MicrophoneConfig", "MicrophoneSource"]

_SILENCE_NS = 3_000_000_000
_LOWEST, _HIGHEST = -32768, 32767
_Place = Annotated[int, Meta(ge=0, le=255)]


class MicrophoneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a microphone.

    Attributes:
        through: ``portaudio`` for any system, ``alsa`` for Linux without a library.
        device: Name, part of a name that no other has, or number; ALSA's name such as
            ``hw:1`` for ``alsa``. None for the system's default.
        channels: Which channel of the device a channel of the model is, from 0; None
            takes them in order.
        device_channels: How many channels to open; None for as many as are needed.
        block_s: Seconds of sound that are delivered at once.
        may_resample: Whether the system may convert the rate of the device.
        frozen_s: The same sample for so long is a fault; None never counts.
    """

    through: Literal["portaudio", "alsa"] = "portaudio"
    device: str | int | None = None
    channels: dict[str, _Place] | None = None
    device_channels: Annotated[int, Meta(ge=1, le=256)] | None = None
    block_s: Annotated[float, Meta(ge=0.01, le=0.5)] = 0.05
    may_resample: bool = False
    frozen_s: Patience = 1.0

    @property
    def declared_channels(self) -> tuple[str, ...] | None:
        """Channels as declared; None if the model's order decides."""
        return tuple(self.channels) if self.channels is not None else None


class MicrophoneSource:
    """Listens to a microphone, 16 bits.

    Delivery: live, at most once; sound that finds no room while the pipeline is
    behind is lost, counted and makes a gap. Clock: that of the samples' arrival,
    smoothed. Thread: one reads, any may close; PortAudio has one of its own, which
    only copies blocks.

    Args:
        config: Options.
        clock: Tells time.
        sounddevice: The library; for tests.
        arecord: Name or path of the program; for tests.
    """

    Config = MicrophoneConfig

    def __init__(
        self,
        config: MicrophoneConfig,
        *,
        clock: Clock | None = None,
        sounddevice: Any = None,
        arecord: str | Path = "arecord",
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._sounddevice = sounddevice
        self._arecord = arecord
        self._health = Health()
        self._holder: Holder[Microphone] = Holder()
        self._silence = Silence(self._clock, _SILENCE_NS, "microphone")
        self._ear: _Ear | None = None

    @property
    def is_exhausted(self) -> bool:
        """Always False: a microphone never ends."""
        return False

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Start listening at the model's rate.

        Raises:
            ConfigError: The device does not have this rate or these channels.
            MissingExtra: A library or program is not installed.
            SourceError: The device is not there, in use, or not ours to use.
        """
        places = _places(self._config, need)
        sound = self._sound(need, max(places) + 1)
        self._holder.open(lambda: self._opened(sound))
        self._silence = Silence(self._clock, _SILENCE_NS, sound.where)
        times = SampleClock(need.rate_hz, self._clock, self._health)
        frozen = Frozen(self._config.frozen_s, need.rate_hz)
        self._ear = _Ear(stream, index, places, times, frozen, self._health)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next block; None if none came within ``timeout_s``.

        Raises:
            SourceError: The microphone was unplugged, or gives nothing any more.
        """
        with self._holder.use() as microphone:
            if microphone is None or self._ear is None:
                return None
            heard = microphone.hear(timeout_s)
            if heard is None:
                self._silence.check()
                return None
            self._silence.end()
            return self._ear.frame(heard)

    def close(self) -> None:
        """Make a waiting read return and release the device; safe to call twice."""
        self._holder.close()

    def health(self) -> SourceHealth:
        """Return lost samples, jitter, and faults: ``overflow``, ``saturated``, ``frozen``."""
        return self._health.report()

    def _sound(self, need: StreamSpec, channels: int) -> Sound:
        config, rate_hz = self._config, round(need.rate_hz)
        if rate_hz != need.rate_hz:
            raise ConfigError(
                f"the model needs {need.rate_hz:g} Hz",
                where="microphone",
                expected="a whole number of samples a second",
                remedy="Convert the model with another --rate-hz.",
            )
        opened = config.device_channels or channels
        if opened < channels:
            raise ConfigError(
                f"device_channels is {opened}",
                where="microphone",
                expected=f"at least {channels}, the highest channel that is used and one",
                remedy="Correct device_channels or channels.",
            )
        block = max(1, round(config.block_s * rate_hz))
        return Sound(config.device, rate_hz, opened, block, config.may_resample)

    def _opened(self, sound: Sound) -> Microphone:
        if self._config.through == "alsa":
            return ArecordMicrophone(sound, self._clock, self._arecord)
        return PortAudioMicrophone(sound, self._clock, self._sounddevice)


def _places(config: MicrophoneConfig, need: StreamSpec) -> list[int]:
    """Return which channel of the device each channel of the model is."""
    if config.channels is None:
        return list(range(len(need.names)))
    missing = [name for name in need.names if name not in config.channels]
    if missing:
        raise ConfigError(
            f"channels leaves out {', '.join(missing)}",
            where="microphone",
            expected=f"a channel of the device for each of {', '.join(need.names)}",
            remedy="Add them to channels.",
        )
    return [config.channels[name] for name in need.names]


class _Ear:
    """Makes frames of blocks, from `open` to `close`."""

    def __init__(
        self,
        stream: str,
        index: int,
        places: list[int],
        times: SampleClock,
        frozen: Frozen,
        health: Health,
    ) -> None:
        self._stream = stream
        self._index = index
        self._places = places
        self._times = times
        self._frozen = frozen
        self._health = health

    def frame(self, heard: Heard) -> Frame:
        """Return the frame of a block, with the needed channels in order."""
        samples = heard.samples
        if self._places != list(range(samples.shape[1])):
            samples = np.ascontiguousarray(samples[:, self._places])
        if heard.lost:
            self._health.fault("overflow")
        stamps = self._times.stamp(len(samples), lost=heard.lost, taken_ns=heard.taken_ns)
        first, self._index = self._index, self._index + len(samples)
        quality = note_suspects(
            self._health,
            len(samples),
            saturated=((samples == _LOWEST) | (samples == _HIGHEST)).any(axis=1),
            frozen=self._frozen.find(samples),
            lost=stamps.lost,
        )
        return Frame(
            self._stream, first, stamps.time_ns, samples, stamps.clock, stamps.step_ns, quality
        )
