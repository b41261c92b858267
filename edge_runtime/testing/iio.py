"""A kernel with one IIO sensor, as the ABI documents it, for tests without hardware."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import struct
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_runtime.clock import SystemClock
from edge_runtime.ports import Clock
from edge_runtime.testing.playing import in_background

__all__ = ["FakeIio", "accelerometer"]

_TYPE = re.compile(r"(be|le):([fsu])(\d+)/(\d+)(?:X(\d+))?(?:>>(\d+))?")
_PIPE_BYTES = 1 << 20  # the most that an unprivileged process may ask for
_TIMESTAMP = "timestamp"
_STAMP_COLUMN = -1
_FIXED_IN_CAPTURE = ("current_trigger", "current_timestamp_clock")


class FakeIio:
    """A device, its buffer and triggers in a folder; the four calls of a `Kernel`.

    It behaves like Linux: a character device opens once; nothing but ``enable``
    can be set while the buffer runs (EBUSY); wrong rates, watermarks and triggers
    are refused (EINVAL); only enabled elements are packed, aligned as the ABI says,
    with junk in the bits around the valid ones; a full buffer drops what comes;
    below the watermark nobody is woken, yet a read gets what is there; a device
    that is unplugged answers ENODEV and wakes nobody.

    Args:
        folder: Empty; ``devices`` and ``dev`` are made in it.
        elements: Name without ``in_`` → type, in the order of their index.
        files: Further attributes of the device: name → text.
        rates_hz: What ``sampling_frequency`` accepts; empty for a part without it.
        triggers: Names of hrtimer triggers; with any, the buffer needs one.
        name: Of the device.
        is_stamped: Whether there is an ``in_timestamp``.
        clock: Stamps the samples.
    """

    def __init__(
        self,
        folder: Path,
        *,
        elements: Mapping[str, str],
        files: Mapping[str, str] | None = None,
        rates_hz: Sequence[float] = (),
        triggers: Sequence[str] = (),
        name: str = "adxl345",
        is_stamped: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.root, self.nodes = folder / "devices", folder / "dev"
        self.overruns = 0
        self.failures: dict[str, int] = {}
        """File name → errno with which opening or reading it fails."""
        self.refusals: dict[str, int] = {}
        """File name → errno with which writing it fails."""
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._elements = dict(elements) | ({_TIMESTAMP: "le:s64/64>>0"} if is_stamped else {})
        self._rates_hz = tuple(rates_hz)
        self._triggers = tuple(triggers)
        self._is_plugged = True
        self._reader = self._writer = -1
        self._waiting: list[bytes] = []
        self._capture: _Capture | None = None
        self._device = self.root / "iio:device0"
        self._make(name, files or {})

    # --- what a source calls --------------------------------------------------------

    def read(self, path: Path) -> str:
        """Return what an attribute says."""
        self._fail(path, self.failures)
        return path.read_text().strip()

    def write(self, path: Path, text: str) -> None:
        """Set an attribute as its driver would."""
        with self._lock:
            self._fail(path, self.refusals)
            self._check(path, text)
            if path.name == "current_trigger" and text not in self._triggers:
                text = ""  # the kernel takes an unknown name for none at all
            path.write_text(f"{text}\n")
            if path.name == "enable":
                self._restart()

    def open(self, path: Path) -> int:
        """Open the character device, once."""
        with self._lock:
            self._fail(path, self.failures)
            if self._writer >= 0 and not _has_no_reader(self._writer):
                raise _error(errno.EBUSY)
            self._shut()
            self._reader, self._writer = os.pipe()
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)
            return self._reader

    def take(self, file: int, size_bytes: int) -> bytes:
        """Read whole scans; those below the watermark too."""
        with self._lock:
            self._fail(self.nodes / self._device.name, self.failures)
            if self._capture is None:
                raise _error(errno.EAGAIN)
            self._deliver()
            return os.read(file, size_bytes // self._capture.scan_bytes * self._capture.scan_bytes)

    # --- what a test calls ----------------------------------------------------------

    def say(self, name: str) -> str:
        """Return what an attribute of the device says right now, without any fault."""
        return (self._device / name).read_text().strip()

    def feed(
        self, raw: np.ndarray | Sequence[Sequence[float]], time_ns: Sequence[int] | None = None
    ) -> int:
        """Let the part sample; return how many samples found room in the buffer.

        Args:
            raw: Shape (n, numbers of all elements), raw values.
            time_ns: Stamps; the clock's monotonic time by default.
        """
        rows = np.asarray(raw)
        stamps = [self._clock.monotonic_ns()] * len(rows) if time_ns is None else time_ns
        with self._lock:
            capture = self._capture
            if capture is None or not self._is_plugged:
                return 0
            pairs = zip(rows.tolist(), stamps, strict=True)
            return sum(self._store(capture, capture.pack(row, stamp)) for row, stamp in pairs)

    def playing(self, rate_hz: float, *, block: int = 16) -> AbstractContextManager[None]:
        """Let the part sample a counter in real time, a few samples at once."""
        return in_background(partial(self._play, rate_hz, block))

    def set_raw(self, values: Mapping[str, str]) -> None:
        """Set what polled attributes say."""
        for name, text in values.items():
            (self._device / name).write_text(f"{text}\n")

    def unplug(self) -> None:
        """Take the part away: every call gives ENODEV, and nobody is woken."""
        self._is_plugged = False

    def plug(self) -> None:
        """Put it back, with its buffer disabled."""
        with self._lock:
            self._is_plugged = True
            (self._device / "buffer0/enable").write_text("0\n")
            self._restart()

    def close(self) -> None:
        """Release the pipe."""
        with self._lock:
            self._shut()

    # --- the tree -------------------------------------------------------------------

    def _make(self, name: str, files: Mapping[str, str]) -> None:
        buffer = {"enable": "0", "length": "2", "watermark": "1"}
        tree = {f"iio:device0/{key}": text for key, text in {"name": name, **files}.items()}
        tree |= {f"iio:device0/buffer0/{key}": text for key, text in buffer.items()}
        if self._rates_hz:
            listed = " ".join(f"{rate:.6f}" for rate in self._rates_hz)
            tree["iio:device0/sampling_frequency"] = f"{self._rates_hz[0]:.6f}"
            tree["iio:device0/sampling_frequency_available"] = listed
        if _TIMESTAMP in self._elements:
            tree["iio:device0/current_timestamp_clock"] = "realtime"
        for number, trigger in enumerate(self._triggers):
            tree[f"trigger{number}/name"] = trigger
            tree[f"trigger{number}/sampling_frequency"] = "100.000000"
            tree["iio:device0/trigger/current_trigger"] = ""
        for index, (element, kind) in enumerate(self._elements.items()):
            told = {"en": "0", "index": str(index), "type": kind}
            for key, text in told.items():
                tree[f"iio:device0/buffer0/in_{element}_{key}"] = text
        for place, text in tree.items():
            path = self.root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        self.nodes.mkdir(exist_ok=True)
        (self.nodes / "iio:device0").touch()

    def _fail(self, path: Path, faults: Mapping[str, int]) -> None:
        if not self._is_plugged:
            raise _error(errno.ENODEV)
        if path.name in faults:
            raise _error(faults[path.name])
        if not path.exists():
            raise _error(errno.ENOENT)

    def _check(self, path: Path, text: str) -> None:
        """Refuse what the kernel or a driver refuses."""
        is_of_capture = path.parent.name == "buffer0" or path.name in _FIXED_IN_CAPTURE
        if self._capture is not None and is_of_capture and path.name != "enable":
            raise _error(errno.EBUSY)
        if not self._takes(path, text):
            raise _error(errno.EINVAL)

    def _takes(self, path: Path, text: str) -> bool:
        match path.as_posix().removeprefix(f"{self._device.as_posix()}/"):
            case "buffer0/enable":
                has_pace = not self._triggers or bool(self.say("trigger/current_trigger"))
                return text == "0" or (has_pace and bool(self._enabled()))
            case "buffer0/watermark":
                return 0 < int(text) <= int(self.say("buffer0/length"))
            case "sampling_frequency":
                return float(text) in self._rates_hz
        return True

    # --- the buffer -----------------------------------------------------------------

    def _restart(self) -> None:
        """Start or end a capture; what is in the buffer is forgotten."""
        self._waiting.clear()
        if self._writer >= 0 and not _has_no_reader(self._writer) and _unread(self._writer):
            os.read(self._reader, _PIPE_BYTES)
        self._capture = self._captured() if self.say("buffer0/enable") == "1" else None

    def _captured(self) -> _Capture:
        packings, column = [], 0
        for name, kind in self._elements.items():
            packing = _parsed(kind)
            first = _STAMP_COLUMN if name == _TIMESTAMP else column
            column += 0 if name == _TIMESTAMP else packing.repeat
            if name in self._enabled():
                packings.append((first, packing))
        length, watermark = (int(self.say(f"buffer0/{key}")) for key in ("length", "watermark"))
        capture = _Capture(length, watermark, packings, 0)
        empty = capture.pack([0.0] * column, 0)
        return capture._replace(scan_bytes=len(empty))

    def _enabled(self) -> list[str]:
        return [name for name in self._elements if self.say(f"buffer0/in_{name}_en") == "1"]

    def _store(self, capture: _Capture, scan: bytes) -> bool:
        held = _unread(self._writer) // len(scan) + len(self._waiting)
        if held >= capture.length:
            self.overruns += 1
            return False
        self._waiting.append(scan)
        if held + 1 >= capture.watermark:
            self._deliver()
        return True

    def _deliver(self) -> None:
        if self._waiting:
            os.write(self._writer, b"".join(self._waiting))
            self._waiting.clear()

    def _play(self, rate_hz: float, block: int, ended: threading.Event) -> None:
        kinds = [kind for name, kind in self._elements.items() if name != _TIMESTAMP]
        width = sum(_parsed(kind).repeat for kind in kinds)
        began_ns, fed = self._clock.monotonic_ns(), 0
        while not ended.wait(block / rate_hz / 2):
            due = int((self._clock.monotonic_ns() - began_ns) * rate_hz / 1e9)
            numbers = np.arange(fed, due)
            stamps = began_ns + numbers * 1e9 / rate_hz
            self.feed(np.repeat(numbers[:, None] % 1000, width, 1), stamps.astype(int).tolist())
            fed = due

    def _shut(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
        self._reader = self._writer = -1


class _Capture(NamedTuple):
    """An enabled buffer: its size, and for each element its first column and packing."""

    length: int
    watermark: int
    packings: list[tuple[int, _Packing]]
    scan_bytes: int

    def pack(self, row: Sequence[float], stamp_ns: int) -> bytes:
        """Pack a row as the ABI says: each element, and the whole, aligned to its length."""
        scan, longest = bytearray(), 1
        for first, packing in self.packings:
            is_stamp = first == _STAMP_COLUMN
            numbers = [stamp_ns] if is_stamp else row[first : first + packing.repeat]
            element = b"".join(packing.pack(number) for number in numbers)
            scan += bytes(-len(scan) % len(element)) + element
            longest = max(longest, len(element))
        return bytes(scan + bytes(-len(scan) % longest))


class _Packing(NamedTuple):
    code: str
    bits: int
    storage: int
    repeat: int
    shift: int

    def pack(self, number: float) -> bytes:
        """Return a number as a driver stores it, with every spare bit set."""
        if self.code[1] in "efd":
            return struct.pack(self.code, number)
        mask = ((1 << self.bits) - 1) << self.shift
        stored = (int(number) << self.shift) & mask | (((1 << self.storage) - 1) & ~mask)
        return struct.pack(self.code, stored)


def accelerometer(folder: Path, **options: object) -> FakeIio:
    """Return an ADXL345 as its driver shows it, with three axes of 13 bits.

    Source: drivers/iio/accel/adxl345_core.c; 3.9 mg a step, data sheet table 1.
    """
    axes = {f"accel_{axis}": "le:s13/16>>0" for axis in "xyz"}
    given: dict[str, object] = {
        "elements": axes,
        "files": {"in_accel_scale": "0.038245935"},
        "rates_hz": (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0),
    }
    return FakeIio(folder, **(given | options))  # type: ignore[arg-type]


def _parsed(kind: str) -> _Packing:
    match = _TYPE.fullmatch(kind)
    if match is None:
        raise ValueError(f"type {kind!r} is none of the ABI's")
    bits, storage, repeat, shift = (int(number or 0) for number in match.groups()[2:])
    codes = {16: "e", 32: "f", 64: "d"} if match[2] == "f" else {8: "B", 16: "H", 32: "I", 64: "Q"}
    order = "<" if match[1] == "le" else ">"
    return _Packing(order + codes[storage], bits, storage, max(repeat, 1), shift)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _unread(pipe: int) -> int:
    """Return the bytes that wait in a pipe."""
    answer: bytes = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _has_no_reader(writer: int) -> bool:
    poll = select.poll()
    poll.register(writer, 0)
    return bool(poll.poll(0))
