"""A sound library without a sound card: the parts of ``sounddevice`` that sources use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

__all__ = ["FakeDevice", "FakePortAudio", "FakeStream"]


class FakeDevice(msgspec.Struct):
    """One device.

    Attributes:
        name: As ALSA or another host names it.
        channels: How many it has for input; 0 for a loudspeaker.
        rates_hz: Which rates it takes, its usual one first.
        is_busy: Whether another program has it.
    """

    name: str
    channels: int = 1
    rates_hz: tuple[int, ...] = (16_000,)
    is_busy: bool = False


class FakePortAudio:
    """Stands in for the module ``sounddevice``.

    As with the real one, devices that are plugged in later are found only after
    it has been started again.

    Args:
        devices: Those that are plugged in.
        play: Makes the block with the given number, shape (n, channels), int16; with it
            every stream plays by itself until it is stopped. Without, `FakeStream.feed` does.

    Attributes:
        devices: Those that are plugged in now.
        streams: All that were ever opened.
        starts: How often it was started again.
    """

    class PortAudioError(Exception):
        """What the library raises: a text, and PortAudio's number."""

    def __init__(
        self, *devices: FakeDevice, play: Callable[[int, int], np.ndarray] | None = None
    ) -> None:
        self.devices = list(devices)
        self.streams: list[FakeStream] = []
        self.starts = 0
        self._known = list(devices)
        self._play = play

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        """Tell what is known of all devices, or of one that has inputs."""
        told = [self._told(number, known) for number, known in enumerate(self._known)]
        if kind is None:
            return told
        inputs = [one for one in told if one["max_input_channels"]]
        if device is None and not inputs:
            raise self.PortAudioError("Error querying device -1")
        found = inputs[:1] if device is None else [one for one in inputs if _is(device, one)]
        if len(found) != 1:
            raise ValueError(f"No input device matching {device!r}")
        return found[0]

    def check_input_settings(
        self, *, device: int, channels: int, dtype: str, samplerate: int
    ) -> None:
        """Refuse what a device cannot do, with PortAudio's numbers."""
        known = self._known[device]
        if known not in self.devices or known.is_busy:
            raise self.PortAudioError("Error opening: Device unavailable", -9985)
        if channels > known.channels:
            raise self.PortAudioError("Error opening: Invalid number of channels", -9998)
        if dtype != "int16" or samplerate not in known.rates_hz:
            raise self.PortAudioError("Error opening: Invalid sample rate", -9997)

    def RawInputStream(self, **asked: Any) -> FakeStream:  # noqa: N802 - the library's name
        """Open a stream."""
        stream = FakeStream(asked, self._play)
        self.streams.append(stream)
        return stream

    def _terminate(self) -> None:
        self._known = []

    def _initialize(self) -> None:
        self._known = list(self.devices)
        self.starts += 1

    def _told(self, number: int, device: FakeDevice) -> dict[str, Any]:
        return {
            "index": number,
            "name": device.name,
            "max_input_channels": device.channels,
            "default_samplerate": float(device.rates_hz[0]),
        }


class FakeStream:
    """One stream; blocks come when a test feeds them, or from a thread that plays.

    Attributes:
        asked: The arguments it was opened with.
        is_open: Whether it still is.
    """

    def __init__(
        self, asked: dict[str, Any], play: Callable[[int, int], np.ndarray] | None
    ) -> None:
        self.asked = asked
        self.is_open = True
        self._play = play
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to play, if it does so by itself."""
        if self._play is not None:
            threading.Thread(target=self._run, args=(self._play,), daemon=True).start()

    def feed(self, samples: np.ndarray, *, has_overflowed: bool = False) -> None:
        """Call back with a block, shape (n, channels), int16."""
        status = SimpleNamespace(input_overflow=has_overflowed)
        self.asked["callback"](memoryview(samples.tobytes()), len(samples), None, status)

    def end(self) -> None:
        """Call back that the stream has stopped, as when the device is unplugged."""
        self.asked["finished_callback"]()

    def abort(self) -> None:
        """Stop at once."""
        self._stopped.set()

    def close(self) -> None:
        """Release the device."""
        self.is_open = False

    def _run(self, play: Callable[[int, int], np.ndarray]) -> None:
        number = 0
        # Ten times as fast as real time, or so: whoever waits for blocks gets them.
        while not self._stopped.wait(self.asked["blocksize"] / self.asked["samplerate"] / 10):
            self.feed(play(number, self.asked["blocksize"]))
            number += 1


def _is(wanted: int | str, device: dict[str, Any]) -> bool:
    if isinstance(wanted, int):
        return bool(device["index"] == wanted)
    return wanted.lower() in str(device["name"]).lower()
