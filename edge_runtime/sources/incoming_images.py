"""Live images from a folder into which another program puts them."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.clock import SystemClock, clock_quality
from edge_runtime.errors import SourceError
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.sources.instants import TimeFormat
from edge_runtime.sources.live import Health, Polling
from edge_runtime.sources.picture_files import (
    LATEST_PERIODS,
    decode_file,
    named_ns,
    picture_files,
    written_ns,
)
from edge_runtime.sources.pictures import Shaper, image_of
from edge_runtime.spec import StreamSpec
from edge_runtime.types import ClockQuality, Frame

__all__ = ["IncomingImagesConfig", "IncomingImagesSource"]

# Pictures that wait for the pipeline; when full, new ones are lost (policy: drop_newest).
_WAITING = 64


class IncomingImagesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a folder that is watched.

    Attributes:
        path: The folder, or a pattern such as ``pictures/front-*.jpg``.
        time: When a picture was taken: when its file was ``written``, or what its
            ``name`` without suffix says.
        format: How names write times.
        poll_s: Seconds from one look into the folder to the next.
    """

    path: Path
    time: Literal["written", "name"] = "written"
    format: TimeFormat = "iso"
    poll_s: Annotated[float, Meta(ge=0.05, le=3600)] = 0.25

    @property
    def delivers_images(self) -> bool:
        """Only a model of images can use them."""
        return True


class _Mark(NamedTuple):
    """What tells one content of a file from another."""

    written_ns: int
    size_bytes: int


class IncomingImagesSource:
    """Delivers pictures as they are put into a folder; a line of pixels is one sample.

    What lies there at the start is passed over. A file counts as whole once two looks
    have found it the same; one that is written again is a new picture. Times and
    lines are as with ``images``.

    Delivery: live, at most once; 64 pictures wait while the pipeline is behind, then
    new ones are left out. Clock: that of whoever writes the files. Thread: one
    reads, any may close.

    Args:
        config: Options.
        clock: Says when to look.
    """

    Config = IncomingImagesConfig

    def __init__(self, config: IncomingImagesConfig, *, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._closed = threading.Event()
        self._closed.set()
        self._health = Health()
        self._folder: _Folder | None = None
        self._reel: _Reel | None = None
        self._waiting: deque[Path] = deque()
        self._polling = Polling(1 / config.poll_s, self._clock, self._closed)

    @property
    def is_exhausted(self) -> bool:
        """Always False: another picture may come."""
        return False

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Note what is there already, and wait for more.

        Raises:
            ConfigError: The model needs no images.
            MissingExtra: Pillow is not installed.
            SourceError: The folder cannot be read.
        """
        image = image_of(need, "incoming-images")
        shaper = Shaper(image, "incoming-images")
        self._folder = _Folder(self._config.path)
        self._polling = Polling(1 / self._config.poll_s, self._clock, self._closed)
        period_ns = image.height * 1e9 / need.rate_hz
        self._reel = _Reel(stream, index, period_ns, shaper, self._health)
        self._waiting.clear()
        self._closed.clear()

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next image; None if a look has found none, or none was due in time.

        Raises:
            SourceError: The folder cannot be read any more.
        """
        if self._closed.is_set() or self._folder is None or self._reel is None:
            return None
        if not self._waiting and self._polling.wait(timeout_s) is not None:
            self._look(self._folder)
        return self._frame(self._reel) if self._waiting else None

    def close(self) -> None:
        """Make a waiting read return and stop; safe to call twice and from any thread."""
        self._closed.set()

    def health(self) -> SourceHealth:
        """Return lost lines, and pictures that were ``damaged``, ``late`` and the like."""
        return self._health.report()

    def _look(self, folder: _Folder) -> None:
        whole = folder.whole()
        self._waiting.extend(whole[:_WAITING])
        if len(whole) > _WAITING:
            self._health.fault("left_out", len(whole) - _WAITING)

    def _frame(self, reel: _Reel) -> Frame | None:
        # One bad file must not end the stream; the folder itself fails in a look.
        path, is_named = self._waiting.popleft(), self._config.time == "name"
        try:
            taken_ns = named_ns(path, self._config.format) if is_named else written_ns(path)
        except SourceError:
            self._health.fault("no_time")
            return None
        return reel.frame(path, taken_ns)


class _Folder:
    """Finds files that are new and whole.

    Args:
        path: Folder or pattern; what is there now is not new.

    Raises:
        SourceError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._marks()
        self._growing: dict[Path, _Mark] = {}

    def whole(self) -> list[Path]:
        """Return what has become whole since the last look, numbers in names in order."""
        now = self._marks()
        changed = {path: mark for path, mark in now.items() if self._known.get(path) != mark}
        found = [path for path, mark in changed.items() if self._growing.get(path) == mark]
        self._growing = changed
        # Names of files that are gone are forgotten: the memory is that of the folder.
        self._known = {path: mark for path, mark in self._known.items() if path in now}
        self._known.update({path: changed[path] for path in found})
        return found

    def _marks(self) -> dict[Path, _Mark]:
        marks = {}
        for path in picture_files(self._path):
            try:
                status = path.stat()
            except OSError:
                # Deleted just now.
                continue
            marks[path] = _Mark(status.st_mtime_ns, status.st_size)
        return marks


class _Reel:
    """Makes frames of pictures, from `open` to `close`."""

    def __init__(
        self, stream: str, index: int, period_ns: float, shaper: Shaper, health: Health
    ) -> None:
        self._stream = stream
        self._index = index
        self._period_ns = period_ns
        self._shaper = shaper
        self._health = health
        self._clock: ClockQuality = clock_quality()
        self._last_ns: int | None = None

    def frame(self, path: Path, taken_ns: int) -> Frame | None:
        """Return the frame of a picture; None if it is damaged, or not later than the last."""
        try:
            lines = decode_file(self._shaper, path)
        except SourceError:
            self._health.fault("damaged")
            return None
        count, since_ns = len(lines), self._since(taken_ns)
        if since_ns < count:
            self._health.fault("late")
            return None
        is_neighbour = since_ns <= LATEST_PERIODS * self._period_ns
        if not is_neighbour:
            self._health.lost((round(since_ns / self._period_ns) - 1) * count)
        step_ns = int(since_ns if is_neighbour else self._period_ns) // count
        times = taken_ns - step_ns * np.arange(count - 1, -1, -1, dtype=np.int64)
        first, self._index, self._last_ns = self._index, self._index + count, taken_ns
        return Frame(self._stream, first, times, lines, self._clock, step_ns=step_ns)

    def _since(self, taken_ns: int) -> int:
        """Return the time since the picture before, ns; for the first one a period."""
        return round(self._period_ns) if self._last_ns is None else taken_ns - self._last_ns
