"""Recordings of images: picture files, replayed in order."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.instants import TimeConfig
from edge_runtime.sources.pace import Pace, RealTime, Unpaced
from edge_runtime.sources.picture_files import (
    LATEST_PERIODS,
    decode_file,
    named_ns,
    picture_files,
    written_ns,
)
from edge_runtime.sources.pictures import FORMATS, Shaper, image_of
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["ImagesConfig", "ImagesSource"]

_RATE_TOLERANCE = 1e-3
_FOREIGN_PACE_S = 0.5


class ImagesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a folder of pictures.

    Attributes:
        path: The folder, or a pattern such as ``pictures/front-*.jpg``.
        time: When an image was taken: a start and the step from one image to the
            next; or ``column: name``, its file name without suffix read in ``format``;
            or ``column: mtime``, when the file was last written.
        first_image: First image to deliver; they count from 0.
        last_image: Image to stop before; None delivers to the end.
        speed: 1 for real time, N for N times as fast, ``max`` for no pace.
    """

    path: Path
    time: TimeConfig
    first_image: Annotated[int, Meta(ge=0)] = 0
    last_image: Annotated[int, Meta(ge=1)] | None = None
    speed: Annotated[float, Meta(gt=0)] | Literal["max"] = "max"

    def __post_init__(self) -> None:
        if self.time.column not in (None, "name", "mtime"):
            raise ConfigError(
                f"time.column is {self.time.column!r}",
                expected="name or mtime",
                remedy="Pictures have no columns: their times come from name or mtime.",
            )
        if self.last_image is not None and self.last_image <= self.first_image:
            raise ConfigError(
                f"first_image is {self.first_image} and last_image {self.last_image}",
                expected="last_image above first_image",
                remedy="last_image is the image to stop before.",
            )

    @property
    def delivers_images(self) -> bool:
        """Only a model of images can use them."""
        return True


class _Roll(NamedTuple):
    """All images of a recording.

    Attributes:
        files: In order.
        time_ns: When they were taken, shape (n,), int64.
        step_ns: Time from line to line of each, shape (n,), int64.
    """

    files: Sequence[Path]
    time_ns: np.ndarray
    step_ns: np.ndarray


class ImagesSource:
    """Replays pictures, JPEG, PNG or PPM; a line of pixels is one sample.

    The last line of an image has the time at which it was taken; the others lie
    before it, evenly over the time since the image before, and at most over the
    model's period. An image that is more than a quarter of a period late makes a gap.

    Delivery: can be replayed; opened at index k it delivers exactly the lines from k
    on. Thread: one reads, any may close. Memory: one picture.

    Args:
        config: Options.
        clock: Followed when the speed is not ``max``.

    Attributes:
        pace: Replaces the pace that ``speed`` asks for, if set before `open`.
    """

    Config = ImagesConfig

    def __init__(self, config: ImagesConfig, *, clock: Clock | None = None) -> None:
        self.pace: Pace | None = None
        self._config = config
        self._clock = clock or SystemClock()
        self._closed = threading.Event()
        self._stream = ""
        self._shaper: Shaper | None = None
        self._roll = _Roll((), np.empty(0, np.int64), np.empty(0, np.int64))
        self._lines = 1
        self._position = 0
        self._last = 0
        self._current_pace: Pace = Unpaced()

    @property
    def is_exhausted(self) -> bool:
        """Whether the last line was delivered; False before the first open."""
        return self._shaper is not None and self._position >= self._last

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """List the files and start at line ``index``, or at ``first_image`` if that is later.

        Raises:
            ConfigError: The model needs no images, or others than these.
            MissingExtra: Pillow is not installed.
            SourceError: There are no such files, or their names tell no times.
        """
        self._closed.clear()
        config, image = self._config, image_of(need, "images")
        period_ns = image.height * 1e9 / need.rate_hz
        self._check_rate(period_ns)
        self._shaper = Shaper(image, "images")
        self._roll = roll = _roll(config, image.height, period_ns)
        self._stream, self._lines = stream, image.height
        self._position = max(index, config.first_image * image.height)
        self._last = _last_image(config, len(roll.files)) * image.height
        self._current_pace = self.pace or self._own_pace(roll.time_ns)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next image, or the rest of it, as soon as its pace allows.

        Raises:
            SourceError: A file is no picture, or damaged.
        """
        first, shaper = self._position, self._shaper
        if shaper is None or self._closed.is_set() or first >= self._last:
            return None
        number, line = divmod(first, self._lines)
        # Only our own pace notices that the source is closed.
        patience_s = timeout_s if self.pace is None else min(timeout_s, _FOREIGN_PACE_S)
        last, taken_ns = (number + 1) * self._lines, int(self._roll.time_ns[number])
        if self._current_pace.wait(last - 1, taken_ns, patience_s) <= 0 or self._closed.is_set():
            return None
        samples = decode_file(shaper, self._roll.files[number])
        self._position = last
        step_ns = int(self._roll.step_ns[number])
        times = taken_ns - step_ns * np.arange(self._lines - 1, -1, -1, dtype=np.int64)
        return Frame(self._stream, first, times[line:], samples[line:], step_ns=step_ns)

    def close(self) -> None:
        """Make a waiting read return and stop; safe to call twice and from any thread."""
        self._closed.set()

    def _check_rate(self, period_ns: float) -> None:
        step_s = self._config.time.step_s
        if step_s and not math.isclose(step_s * 1e9, period_ns, rel_tol=_RATE_TOLERANCE):
            raise ConfigError(
                f"time.step_s is {step_s:g}",
                where=str(self._config.path),
                expected=f"{period_ns / 1e9:g}, the time from one of the model's images "
                "to the next",
                remedy="Correct time.step_s, or use another recording.",
            )

    def _own_pace(self, time_ns: np.ndarray) -> Pace:
        if self._config.speed == "max":
            return Unpaced()
        real = RealTime(self._config.speed, self._clock, time_ns=time_ns, closed=self._closed)
        return _PerImage(real, self._lines)


class _PerImage:
    """Asks a pace that counts images; the source counts lines."""

    def __init__(self, pace: Pace, lines: int) -> None:
        self._pace = pace
        self._lines = lines

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:
        """Wait until the image with the line at ``index`` is due; see `Pace`."""
        return self._pace.wait(index // self._lines, time_ns, timeout_s)


def _roll(config: ImagesConfig, lines: int, period_ns: float) -> _Roll:
    files = _files(config.path)
    time = config.time
    if time.column is None:
        time_ns = time.grid(len(files))
    else:
        is_named = time.column == "name"
        times = [named_ns(file, time.format) if is_named else written_ns(file) for file in files]
        order = np.argsort(times, kind="stable")
        files, time_ns = [files[i] for i in order], np.array(times, np.int64)[order]
    steps_ns = np.diff(time_ns, prepend=time_ns[0] - round(period_ns))
    _check_apart(files, steps_ns, lines)
    is_neighbour = steps_ns <= LATEST_PERIODS * period_ns
    return _Roll(files, time_ns, np.where(is_neighbour, steps_ns, round(period_ns)) // lines)


def _files(path: Path) -> list[Path]:
    files = picture_files(path)
    if not files:
        raise SourceError(
            "there are no pictures",
            where=str(path),
            expected="a folder or a pattern with files in " + ", ".join(FORMATS),
            remedy="Correct the path; only the last part of a pattern may have * and ?.",
        )
    return files


def _check_apart(files: Sequence[Path], steps_ns: np.ndarray, lines: int) -> None:
    """Every line needs a time of its own."""
    if (steps_ns < lines).any():
        second = int(np.argmax(steps_ns < lines))
        raise SourceError(
            f"it has the time of {files[second - 1].name}",
            where=str(files[second]),
            expected="a time of its own",
            remedy="Give the time by name, or by start and step_s.",
        )


def _last_image(config: ImagesConfig, count: int) -> int:
    wanted = max(config.first_image + 1, config.last_image or 1)
    if count < wanted:
        raise SourceError(
            f"there are {count} images",
            where=str(config.path),
            expected=f"at least {wanted}",
            remedy="Perhaps some are missing; copy them again, or correct first and last_image.",
        )
    return config.last_image or count
