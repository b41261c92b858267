"""A recording: samples and their times in memory, replayed as a source.

Loaders for file formats stand beside this module and only fill a `Track`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.instants import TimeConfig
from edge_runtime.sources.pace import Pace, RealTime, Unpaced
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["Recording", "RecordingConfig", "TableConfig", "Track"]

_RATE_TOLERANCE = 1e-3
_FOREIGN_PACE_S = 0.5


class RecordingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of every recording.

    Attributes:
        path: The file.
        columns: Which column holds a channel, by name or number; None takes
            columns that are named like the channels.
        first_row: First data row to deliver; rows count from 0.
        last_row: Row to stop before; None delivers to the end.
        speed: 1 for real time, N for N times as fast, ``max`` for no pace.
        block: Most samples in a frame.
        rate_hz: Samples a second, where the file does not tell; compared with the model's.
    """

    path: Path
    columns: dict[str, str | int] | None = None
    first_row: Annotated[int, Meta(ge=0)] = 0
    last_row: Annotated[int, Meta(ge=1)] | None = None
    speed: Annotated[float, Meta(gt=0)] | Literal["max"] = "max"
    block: Annotated[int, Meta(ge=1, le=65536)] = 256
    rate_hz: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if self.last_row is not None and self.last_row <= self.first_row:
            raise ConfigError(
                f"first_row is {self.first_row} and last_row {self.last_row}",
                expected="last_row above first_row",
                remedy="last_row is the row to stop before.",
            )

    @property
    def declared_rate_hz(self) -> float | None:
        """Samples a second as declared; None if nothing declares it."""
        return self.rate_hz

    @property
    def declared_channels(self) -> tuple[str, ...] | None:
        """Channels as declared; None if the file's own columns decide."""
        return tuple(self.columns) if self.columns is not None else None


class TableConfig(RecordingConfig, frozen=True, kw_only=True):
    """Options of recordings in columns.

    Attributes:
        time: Where event times come from.
        key: Column that names the device of a row, by name or number, where the file
            holds many; None for one device.
    """

    time: TimeConfig
    key: str | int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        step_s = self.time.step_s
        if self.rate_hz and step_s and not _is_close(self.rate_hz, 1 / step_s):
            raise ConfigError(
                f"rate_hz is {self.rate_hz:g} and time.step_s is {step_s:g}",
                expected="one rate",
                remedy="Leave rate_hz out; the step tells it.",
            )

    @property
    def declared_key(self) -> str | int | None:
        """What names the device of a row; None for one device."""
        return self.key

    @property
    def declared_rate_hz(self) -> float | None:
        """Samples a second, from ``rate_hz`` or the step; of many devices nothing tells it."""
        if self.key is not None:
            return None
        return 1 / self.time.step_s if self.rate_hz is None and self.time.step_s else self.rate_hz


class Track(msgspec.Struct, frozen=True, eq=False):
    """What a loader makes of a file: all rows from 0 on.

    Attributes:
        time_ns: Event times, shape (n,), int64, in the order of the file.
        samples: Shape (n, channels), channels as needed, any real dtype.
        rate_hz: Samples a second, where the file tells it.
        keys: Which device each row is of, see `Frame`; None for one device.
    """

    time_ns: np.ndarray
    samples: np.ndarray
    rate_hz: float | None = None
    keys: np.ndarray | None = None


class Recording:
    """Replays a file; index = data row of the file.

    Delivery: can be replayed; opened at index k it delivers exactly the rows
    from k on. Rows are delivered as they stand, also missing values and rows
    out of order. The rows stay in memory until it is closed. Thread: one reads,
    any may close.

    Args:
        config: Options.
        load: Reads the channels of a `StreamSpec`, called at every open.
        clock: Followed when the speed is not ``max``.

    Attributes:
        pace: Replaces the pace that ``speed`` asks for, if set before `open`.
    """

    def __init__(
        self,
        config: RecordingConfig,
        load: Callable[[StreamSpec], Track],
        *,
        clock: Clock | None = None,
    ) -> None:
        self.pace: Pace | None = None
        self._config = config
        self._load = load
        self._clock = clock or SystemClock()
        self._closed = threading.Event()
        self._stream = ""
        self._track: Track | None = None
        self._step_ns: int | None = None
        self._position = 0
        self._last = 0
        self._was_opened = False
        self._current_pace: Pace = Unpaced()

    @property
    def is_exhausted(self) -> bool:
        """Whether the last row was delivered; False before the first open."""
        return self._was_opened and self._position >= self._last

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Load the file and start at row ``index``, or at ``first_row`` if that is later.

        Raises:
            ConfigError: Columns, rows or rate do not fit.
            SourceError: The file cannot be read.
        """
        self._closed.clear()
        config = self._config
        self._check_rate(config.declared_rate_hz, need)
        track = self._load(need)
        self._check_rate(track.rate_hz, need)
        self._last = _last_row(config, len(track.samples))
        self._position = max(index, config.first_row)
        self._stream = stream
        track.samples.flags.writeable = False
        self._track, self._was_opened = track, True
        self._step_ns = _steady_step(track.time_ns)
        self._current_pace = self.pace or self._own_pace(track)

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next block as soon as its pace allows; None if not within ``timeout_s``."""
        track, first = self._track, self._position
        if track is None or self._closed.is_set() or self.is_exhausted:
            return None
        # Only our own pace notices that the source is closed.
        patience_s = timeout_s if self.pace is None else min(timeout_s, _FOREIGN_PACE_S)
        granted = self._current_pace.wait(first, int(track.time_ns[first]), patience_s)
        if granted <= 0 or self._closed.is_set():
            return None
        last = min(first + min(granted, self._config.block), self._last)
        self._position = last
        rows = slice(first, last)
        return Frame(
            self._stream,
            first,
            track.time_ns[rows],
            track.samples[rows],
            step_ns=self._step_ns,
            keys=None if track.keys is None else track.keys[rows],
        )

    def close(self) -> None:
        """Make a waiting read return, and let go of the rows; safe to call twice.

        A device that stays after its recording has ended needs them no more.
        """
        self._closed.set()
        self._track, self._current_pace = None, Unpaced()

    def _own_pace(self, track: Track) -> Pace:
        if self._config.speed == "max":
            return Unpaced()
        return RealTime(self._config.speed, self._clock, time_ns=track.time_ns, closed=self._closed)

    def _check_rate(self, rate_hz: float | None, need: StreamSpec) -> None:
        if rate_hz is None or need.grid is not None:
            return
        if not _is_close(rate_hz, need.rate_hz):
            raise ConfigError(
                f"the recording has {rate_hz:g} Hz",
                where=str(self._config.path),
                expected=f"the model's {need.rate_hz:g} Hz",
                remedy=f"Use another recording, or convert the model with --rate-hz {rate_hz:g}.",
            )


def _steady_step(time_ns: np.ndarray) -> int | None:
    """Return the time from each row to the next, if it is the same within one ns."""
    steps = np.diff(time_ns)
    step_ns = int(steps[0]) if len(steps) else 0
    is_steady = step_ns > 0 and step_ns - 1 <= steps.min() and steps.max() <= step_ns + 1
    return step_ns if is_steady else None


def _last_row(config: RecordingConfig, rows: int) -> int:
    if rows == 0 or (config.last_row or 0) > rows:
        raise SourceError(
            f"the file ends after {rows} rows",
            where=str(config.path),
            expected=f"at least {config.last_row or 1}",
            remedy="Perhaps the file is truncated; copy it again, or correct last_row.",
        )
    if config.first_row >= rows:
        raise ConfigError(
            f"first_row is {config.first_row}, and the file has {rows} rows",
            where=str(config.path),
            expected="a row of the file",
            remedy="Correct first_row; rows count from 0.",
        )
    return config.last_row or rows


def _is_close(rate_hz: float, other_hz: float) -> bool:
    return math.isclose(rate_hz, other_hz, rel_tol=_RATE_TOLERANCE)
