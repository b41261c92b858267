"""The two ways to a microphone: PortAudio, and ALSA's own ``arecord`` as a child process."""

from __future__ import annotations

import math
import os
import re
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

import numpy as np

from edge_runtime.errors import ConfigError, EdgeError, MissingExtra, SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.waking import Handover, Part, Waker

__all__ = ["ArecordMicrophone", "Heard", "Microphone", "PortAudioMicrophone", "Sound"]

_SAMPLE_BYTES = 2
# Blocks that wait for the source; when full, new ones are lost (policy: drop_newest).
_WAITING = 100


class Sound(NamedTuple):
    """What a microphone is asked for.

    Attributes:
        device: Name or number; None for the system's default.
        rate_hz: Samples a second.
        channels: Channels of the device, of which the first ones are opened.
        block: Samples that are handed over at once.
        may_resample: Whether something between us and the device may change its rate.
    """

    device: str | int | None
    rate_hz: int
    channels: int
    block: int
    may_resample: bool

    @property
    def where(self) -> str:
        """Name of the device, for messages."""
        return f"microphone {'default' if self.device is None else self.device}"


class Heard(NamedTuple):
    """A block of sound.

    Attributes:
        samples: Shape (n, channels of the device), int16.
        lost: Samples right before it that are missing.
        taken_ns: Monotonic time of the last sample; None for now.
    """

    samples: np.ndarray
    lost: int
    taken_ns: int | None = None


class Microphone(Part, Protocol):
    """An open microphone that delivers; used by one thread, but for `wake`."""

    def hear(self, timeout_s: float) -> Heard | None:
        """Return the next block; None if none came in time.

        Raises:
            SourceError: The microphone has failed.
        """
        ...


# --- PortAudio ----------------------------------------------------------------------

# What PortAudio says of a rate, number of channels or format that a device lacks:
# paInvalidChannelCount, paInvalidSampleRate, paSampleFormatNotSupported in portaudio.h.
_MISFITS = frozenset({-9998, -9997, -9994})


class PortAudioMicrophone:
    """A microphone of any system that PortAudio knows.

    Args:
        sound: What is wanted.
        clock: Tells when a block came.
        library: Module ``sounddevice``; None imports it.

    Raises:
        ConfigError: The device does not have this rate or these channels.
        MissingExtra: sounddevice or PortAudio is not installed.
        SourceError: There is no such device, or it is in use.
    """

    # The library is one for the whole process.
    _lock = threading.Lock()
    _streams = 0
    _is_used = False

    def __init__(self, sound: Sound, clock: Clock, library: Any = None) -> None:
        self._sound = sound
        self._clock = clock
        self._library: Any = library or _sounddevice()
        self._came: Handover[Heard] = Handover(_WAITING)
        self._came_ns: int | None = None
        self._left_out = 0
        self._has_ended = False
        self._stream: Any = None
        with self._lock:
            self._refresh()
            self._open(self._device())
            PortAudioMicrophone._streams += 1

    def hear(self, timeout_s: float) -> Heard | None:
        """Return the next block that PortAudio's thread has brought."""
        heard = self._came.take(timeout_s)
        if heard is not None and len(heard.samples):
            return heard
        if self._has_ended:
            raise SourceError(
                "the sound has ended",
                where=self._sound.where,
                expected="a microphone that stays plugged in",
                remedy="It is opened again once it is back.",
            )
        return None

    def wake(self) -> None:
        """End the wait for a block."""
        self._came.wake()

    def close(self) -> None:
        """Stop the stream and release the device."""
        with self._lock:
            stream, self._stream = self._stream, None
            if stream is not None:
                PortAudioMicrophone._streams -= 1
                stream.abort()
                stream.close()

    def _open(self, device: dict[str, Any]) -> None:
        sound, library = self._sound, self._library
        self._check(device)
        asked = {
            "device": device["index"],
            "channels": sound.channels,
            "dtype": "int16",
            "samplerate": sound.rate_hz,
        }
        try:
            library.check_input_settings(**asked)
            self._stream = library.RawInputStream(
                blocksize=sound.block, callback=self._take, finished_callback=self._end, **asked
            )
            self._stream.start()
        except library.PortAudioError as error:
            if self._stream is not None:
                self._stream.close()
            raise self._failure(device, error) from error

    def _refresh(self) -> None:
        """Start the library again unless it is in use: only then it looks for devices."""
        if PortAudioMicrophone._is_used and not PortAudioMicrophone._streams:
            self._library._terminate()  # noqa: SLF001 - there is no public way
            self._library._initialize()  # noqa: SLF001
        PortAudioMicrophone._is_used = True

    def _device(self) -> dict[str, Any]:
        """Return what PortAudio knows of the device."""
        try:
            device: dict[str, Any] = self._library.query_devices(self._sound.device, "input")
        except (ValueError, self._library.PortAudioError) as error:
            raise self._missing() from error
        return device

    def _missing(self) -> SourceError:
        known = [
            f"{device['index']} {device['name']!r}"
            for device in self._library.query_devices()
            if device["max_input_channels"] > 0
        ]
        return SourceError(
            "there is no such device, or more than one",
            where=self._sound.where,
            expected=f"one of {', '.join(known) or 'none: no microphone is connected'}",
            remedy="Plug it in, or name another: python -m sounddevice lists all.",
        )

    def _check(self, device: dict[str, Any]) -> None:
        """Refuse a device behind which the rate may be changed unseen."""
        sound, name = self._sound, str(device["name"])
        is_hardware = "(hw:" in name
        usual_hz = float(device["default_samplerate"])
        if sound.may_resample or is_hardware or math.isclose(usual_hz, sound.rate_hz):
            return
        raise ConfigError(
            f"device {name!r} runs at {usual_hz:g} Hz",
            where=sound.where,
            expected=f"the model's {sound.rate_hz} Hz",
            remedy="Name the hardware itself (a device with hw: in its name), which tells what it "
            "can do, or set may_resample to let the system convert.",
        )

    def _failure(self, device: dict[str, Any], error: Exception) -> EdgeError:
        text, code, *_ = (*error.args, None, None)
        if code in _MISFITS:
            return ConfigError(
                f"device {device['name']!r} does not take this: {text}",
                where=self._sound.where,
                expected=f"{self._sound.rate_hz} Hz, 16 bits, {self._sound.channels} channels "
                f"(it has {device['max_input_channels']})",
                remedy="Set device_channels, convert the model with "
                f"--rate-hz {device['default_samplerate']:g}, or set may_resample and name a "
                "device of the sound server.",
            )
        return SourceError(
            f"device {device['name']!r} cannot be used: {text}",
            where=self._sound.where,
            expected="a microphone that nobody else uses",
            remedy="End the program that uses it, or take a device of the sound server.",
        )

    # --- PortAudio's thread ---------------------------------------------------------

    def _take(self, content: Any, count: int, time: Any, status: Any) -> None:  # noqa: ARG002
        """Copy a block out of PortAudio's buffer."""
        now_ns = self._clock.monotonic_ns()
        lost = self._left_out + (self._overflow(now_ns, count) if status.input_overflow else 0)
        self._came_ns = now_ns
        samples = np.frombuffer(bytes(content), np.int16).reshape(count, -1)
        is_taken = self._came.put(Heard(samples, lost, now_ns))
        self._left_out = 0 if is_taken else lost + count

    def _overflow(self, now_ns: int, count: int) -> int:
        """Return how many samples an overflow must have cost; PortAudio does not tell."""
        if self._came_ns is None:
            return 0
        due = round((now_ns - self._came_ns) * self._sound.rate_hz / 1e9)
        return max(1, due - count)

    def _end(self) -> None:
        """The stream has stopped, asked or not."""
        self._has_ended = True
        self._came.put(Heard(np.empty((0, self._sound.channels), np.int16), 0))


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtra.of('source "microphone"', "sounddevice", "microphone") from error
    except OSError as error:
        raise MissingExtra(
            'source "microphone" needs the PortAudio library of the system, which is not installed',
            remedy="sudo apt install libportaudio2, or set through: alsa, which needs only "
            "sudo apt install alsa-utils",
        ) from error
    return sounddevice


# --- ALSA ---------------------------------------------------------------------------

_OVERRUN = re.compile(rb"overrun!!! \(at least ([0-9.]+) ms long\)")
_COMPLAINT = re.compile(r"^(?:arecord: |ALSA lib ).*", re.MULTILINE)
_START_S = 5.0
_STOP_S = 1.0
_READ_BYTES = 1 << 16
_BUFFER_US = 500_000
_MOST_LINES = 256


class ArecordMicrophone:
    """A microphone of Linux without further libraries: what ``arecord`` writes.

    Args:
        sound: What is wanted.
        clock: Tells how long the start takes.
        program: Name or path of ``arecord``.

    Raises:
        ConfigError: The device does not have this rate or these channels.
        MissingExtra: The program is not installed.
        SourceError: There is no such device, or it is in use.
    """

    def __init__(self, sound: Sound, clock: Clock, program: str | Path = "arecord") -> None:
        self._sound = sound
        self._pending = b""
        self._lost = 0
        self._told: deque[bytes] = deque(maxlen=_MOST_LINES)
        self._telling = b""
        self._waker = Waker()
        try:
            self._child = _started(sound, program)
        except EdgeError:
            self._waker.close()
            raise
        self._sounds = cast(IO[bytes], self._child.stdout).fileno()
        self._words = cast(IO[bytes], self._child.stderr).fileno()
        self._is_telling = True
        try:
            self._await_sound(clock)
        except EdgeError:
            self.close()
            raise

    def hear(self, timeout_s: float) -> Heard | None:
        """Return what has come, once it is a block."""
        frame_bytes = _SAMPLE_BYTES * self._sound.channels
        if len(self._pending) < self._sound.block * frame_bytes:
            self._attend(timeout_s)
        whole = len(self._pending) // frame_bytes
        if whole < self._sound.block:
            return None
        end = whole * frame_bytes
        content, self._pending = self._pending[:end], self._pending[end:]
        lost, self._lost = self._lost, 0
        samples = np.frombuffer(content, "<i2").astype(np.int16, copy=False)
        return Heard(samples.reshape(whole, -1), lost)

    def wake(self) -> None:
        """End the wait for sound."""
        self._waker.wake()

    def close(self) -> None:
        """End the child and wait for its end."""
        child = self._child
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        self._waker.close()

    def _attend(self, timeout_s: float) -> bool:
        """Take in what comes within a time; False if nothing does."""
        ready = self._ready(timeout_s)
        if self._words in ready:
            self._listen()
        if self._sounds in ready:
            self._gather()
        return bool(ready)

    def _ready(self, timeout_s: float) -> frozenset[int]:
        descriptors = [self._sounds, self._words] if self._is_telling else [self._sounds]
        return self._waker.wait(descriptors, timeout_s)

    def _await_sound(self, clock: Clock) -> None:
        """Wait for the first sound; what is wrong with the device is told before it."""
        deadline_ns = clock.monotonic_ns() + round(_START_S * 1e9)
        while not self._pending:
            if not self._attend((deadline_ns - clock.monotonic_ns()) / 1e9):
                raise self._failure("it gives no sound")
        self._check_rate()
        # What was told so far describes the device; from now on only trouble is told.
        self._told.clear()

    def _check_rate(self) -> None:
        """Refuse a rate that the device does not have; ``arecord -v`` tells who converts."""
        sound, told = self._sound, b"\n".join(self._told)
        is_converted = b"Rate conversion" in told and not sound.may_resample
        if is_converted or b"rate is not accurate" in told:
            rates = re.findall(rb"got = ([0-9]+)Hz|Rate conversion PCM \(([0-9]+)", told)
            runs_at = next((a or b for a, b in rates), b"another rate").decode()
            raise ConfigError(
                f"the device runs at {runs_at} Hz",
                where=sound.where,
                expected=f"the model's {sound.rate_hz} Hz",
                remedy=f"Convert the model with --rate-hz {runs_at}, or set may_resample and name "
                "a device that converts, such as plughw:1.",
            )

    def _gather(self) -> None:
        """Take sound out of the pipe.

        Raises:
            EdgeError: The child has ended.
        """
        content = os.read(self._sounds, _READ_BYTES)
        if not content:
            while self._is_telling and self._words in self._ready(_STOP_S):
                self._listen()
            raise self._failure("arecord has ended")
        self._pending += content

    def _listen(self) -> None:
        """Take words out of the other pipe; an overrun tells how long it was."""
        content = os.read(self._words, _READ_BYTES)
        self._is_telling = bool(content)
        *lines, self._telling = (self._telling + content).split(b"\n")
        self._telling = self._telling[-_READ_BYTES:]
        for line in lines:
            self._told.append(line[:200])
            overrun = _OVERRUN.search(line)
            if overrun:
                self._lost += max(1, round(float(overrun[1]) / 1e3 * self._sound.rate_hz))

    def _failure(self, what: str) -> EdgeError:
        told = b"\n".join([*self._told, self._telling]).decode("utf-8", "replace")
        last = next(reversed(_COMPLAINT.findall(told)), "")
        for sign, remedy in _MISFIT_REMEDIES.items():
            if sign in told:
                return ConfigError(
                    last,
                    where=self._sound.where,
                    expected=f"{self._sound.rate_hz} Hz, 16 bits, {self._sound.channels} channels",
                    remedy=remedy,
                )
        remedy = next((text for sign, text in _REMEDIES.items() if sign in told), _OTHER_REMEDY)
        return SourceError(
            f"{what}: {last}" if last else what,
            where=self._sound.where,
            expected="a microphone that delivers",
            remedy=remedy,
        )


# What alsa-lib and arecord say (aplay.c), and what helps.
_MISFIT_REMEDIES = {
    "Channels count non available": "Set device_channels to what the device has: "
    "arecord -D DEVICE --dump-hw-params tells.",
    "Sample format non available": "Take a device that converts, such as plughw:1: "
    "arecord -D DEVICE --dump-hw-params tells what this one has.",
}
_REMEDIES = {
    "Permission denied": "Join the group that may use sound, and log in again: "
    "sudo usermod -aG audio $USER.",
    "Device or resource busy": "End the program that uses it: fuser -v /dev/snd/* tells which.",
    "No such file or directory": "Plug it in, or name another: arecord -L lists all.",
    "No such device": "It was unplugged; it is opened again once it is back.",
}
_OTHER_REMEDY = "It is opened again; arecord -L lists all devices."


def _started(sound: Sound, program: str | Path) -> subprocess.Popen[bytes]:
    command = [
        *(str(program), "-D", "default" if sound.device is None else str(sound.device)),
        *("-t", "raw", "-f", "S16_LE", "-r", str(sound.rate_hz), "-c", str(sound.channels), "-v"),
        f"--period-time={round(1e6 * sound.block / sound.rate_hz)}",
        f"--buffer-time={_BUFFER_US}",
    ]
    try:
        return subprocess.Popen(  # noqa: S603 - no shell, and a program of the system
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "LC_ALL": "C"},
            # A Ctrl-C on the terminal is for us; we end the child ourselves.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise MissingExtra(
            'source "microphone" through alsa needs arecord, which is not installed',
            remedy="sudo apt install alsa-utils",
        ) from error
    except OSError as error:
        raise SourceError(
            f"arecord cannot be started ({error.strerror})",
            where=sound.where,
            expected="a program that this user may run",
            remedy="sudo apt install --reinstall alsa-utils",
        ) from error
