"""Cuts frames into windows: a linear buffer that takes whole blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.pipeline.filtering import Filtering
from edge_runtime.pipeline.marks import Marks
from edge_runtime.quality import MASK
from edge_runtime.spec import FilterSpec, StreamSpec, WindowSpec
from edge_runtime.types import Frame, Windows

__all__ = ["Cutter", "CutterState"]

_BLOCK_SAMPLES = 8192
_BLOCK_VALUES = 65536
_BLOCK_WINDOWS = 32
_INT64 = np.dtype(np.int64)
_FLOAT32 = np.dtype(np.float32)


class CutterState(msgspec.Struct, frozen=True):
    """What a `Cutter` must remember between two frames.

    Attributes:
        dtype: Of the samples; empty before the first frame.
        samples: Rows from the start of the next window on, C order.
        first_ns: Time of the first of these rows.
        step_ns: Time between the first two of them.
        jitter: Difference of every step from ``step_ns``, int64; empty when all are 0.
        skip: Samples still to come before the next window begins (``hop > length``).
        covered: How many of these rows an earlier window had too, or are padding.
        last_ns: Time of the last accepted row; None before the first.
        discarded: Discards by reason.
        is_fresh: Whether the next window begins a stretch.
        is_padded: Whether the padding of this stretch is among the rows, or was.
        raw: Rows that wait for the filter's block to fill; the last ones accepted.
        filter: What the filter remembers.
        quality: Masks of these rows and of those that wait; empty where all are 0.
    """

    dtype: str
    samples: bytes
    first_ns: int
    step_ns: int
    jitter: bytes
    skip: int
    covered: int
    last_ns: int | None
    discarded: dict[str, int]
    is_fresh: bool = True
    is_padded: bool = True
    raw: bytes = b""
    filter: bytes = b""
    quality: bytes = b""


class Cutter:
    """Cuts one stream into windows of fixed length; used by one thread.

    Rows that are not later than the last accepted one are discarded and counted
    as ``out_of_order``. A jump in time starts a new window; rows that no window
    covered are counted as ``gap``. Windows with a value that is not finite are
    not given out and are counted, in windows, as ``not_finite``.

    Float samples are kept as float32, all others in their own dtype. How the
    rows are spread over frames does not matter.

    Args:
        window: Length, hop, padding and what counts as a gap.
        stream: Channels and rate.
        filters: Applied to the samples first, which are then float32. They start
            anew after a gap; in place of a value that is not finite they get the
            channel's last one.

    Raises:
        ConfigError: A filter does not fit the rate.
    """

    def __init__(
        self, window: WindowSpec, stream: StreamSpec, filters: Sequence[FilterSpec] = ()
    ) -> None:
        self._length = window.length
        self._hop = window.hop
        self._pad = window.pad
        self._channels = len(stream.channels)
        self._names = stream.names
        self._period_ns = stream.period_ns
        self._longest_step_ns = int(window.gap_periods * stream.period_ns)
        self._filtering: Filtering | None = None
        if filters:
            self._filtering = Filtering(filters, window, stream)
        rows = max(_BLOCK_SAMPLES, _BLOCK_WINDOWS * window.hop)
        self._block = max(1, min(rows, _BLOCK_VALUES // self._channels))
        self._capacity = 4 * self._length + 2 * self._block
        # Where the buffer is cleared up if it can be: a short one stays in the cache.
        self._turn = min(8 * self._length, self._capacity)
        self.discarded = {"out_of_order": 0, "gap": 0, "not_finite": 0}
        self._last_ns: int | None = None
        self._dtype: np.dtype | None = None
        self._source_dtype: np.dtype | None = None
        self._clear()

    def _clear(self) -> None:
        """Forget the buffered rows. All positions count from the buffer's start."""
        self._used = 0
        self._next = 0
        self._covered = 0
        self._bad = np.empty(0, np.int64)
        self._is_fresh = True
        self._is_padded = self._pad == 0
        # Padding may reach back to the times of the stretch before.
        self._marks: Marks | None = None
        if self._filtering is not None:
            self._filtering.reset()

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the windows; float32 before the first frame."""
        return _FLOAT32 if self._dtype is None else self._dtype

    def cut(self, frame: Frame) -> Iterable[Windows]:
        """Take a frame and give out the windows it completes, in blocks of consecutive ones.

        The samples are views into the buffer: use them before asking for more,
        and ask for all.

        Raises:
            ShapeError: Channels or dtype are not those of the stream.
        """
        samples, time_ns = frame.samples, frame.time_ns
        if samples.dtype is not self._source_dtype or time_ns.dtype is not _INT64:
            self._check_dtypes(frame)
        if samples.shape[1] != self._channels:
            raise self._channel_error(frame)
        count = len(time_ns)
        if count > self._block:
            return self._cut_long(frame)
        if frame.quality is not None or self._marks is not None:
            return self._cut_marked(frame)
        if not count or not self._is_regular(time_ns, frame.step_ns):
            return self._cut_irregular(samples, time_ns, frame.index)
        return self._take(samples, time_ns, frame.index)

    def cut_next(self, frame: Frame) -> Windows | None:
        """Take a frame that completes one window and is like those before, as most are.

        Behind a model every step is read from memory again: this is `cut` with everything
        left out that such a frame does not need. None leaves all as it was: then ask `cut`.
        """
        samples, time_ns = frame.samples, frame.time_ns
        first, start = self._used, self._next
        if first == start:
            return self._cut_whole(frame)
        last, stop = first + len(time_ns), start + self._length
        if (
            not stop <= last < stop + self._hop
            or last > self._turn
            or self._filtering is not None
            or self._marks is not None
            or frame.quality is not None
            or samples.dtype is not self._source_dtype
            or time_ns.dtype is not _INT64
            or samples.shape[1] != self._channels
            or not self._is_regular(time_ns, frame.step_ns)
        ):
            return None
        rows, times = self._samples, self._times
        rows[first:last] = samples
        times[first:last] = time_ns
        if self._dtype is _FLOAT32 and (len(self._bad) or not _is_finite(rows[first:last])):
            return None
        self._last_ns = time_ns.item(-1)
        self._used, self._next, self._covered = last, start + self._hop, stop
        return self._window(rows, times, start, frame.index + stop - first - 1)

    def _cut_whole(self, frame: Frame) -> Windows | None:
        """Take a frame that is a window by itself, such as an image; None as in `cut_next`."""
        samples, time_ns = frame.samples, frame.time_ns
        if (
            not len(time_ns) == self._length == self._hop
            or not self._is_padded
            or self._filtering is not None
            or self._marks is not None
            or frame.quality is not None
            or samples.dtype is not self._dtype
            or time_ns.dtype is not _INT64
            or samples.shape[1] != self._channels
            or not samples.flags.c_contiguous
            or not self._is_regular(time_ns, frame.step_ns)
            or (samples.dtype is _FLOAT32 and not _is_finite(samples))
        ):
            return None
        self._last_ns = time_ns.item(-1)
        return self._window(samples, time_ns, 0, frame.index + self._length - 1)

    def _cut_long(self, frame: Frame) -> Iterator[Windows]:
        """Take a frame that is longer than a block, a block at a time."""
        for first in range(0, len(frame), self._block):
            rows = slice(first, first + self._block)
            part = msgspec.structs.replace(
                frame,
                index=frame.index + first,
                time_ns=frame.time_ns[rows],
                samples=frame.samples[rows],
                quality=None if frame.quality is None else frame.quality[rows],
            )
            yield from self.cut(part)

    # --- time ---------------------------------------------------------------------

    def _is_regular(self, time_ns: np.ndarray, step_ns: int | None) -> bool:
        """Whether every row follows the one before it, without a gap."""
        first_ns = time_ns.item(0)
        if self._last_ns is not None and not 0 < first_ns - self._last_ns <= self._longest_step_ns:
            return False
        if step_ns is not None and 1 < step_ns < self._longest_step_ns:
            return True
        if len(time_ns) == 1:
            return True
        steps = time_ns[1:] - time_ns[:-1]
        # Where the extremes lie: half of what comparing every step takes.
        longest: int = steps.item(steps.argmax())
        shortest: int = steps.item(steps.argmin())
        return shortest > 0 and longest <= self._longest_step_ns

    def _cut_irregular(
        self,
        samples: np.ndarray,
        time_ns: np.ndarray,
        index: int,
        quality: np.ndarray | None = None,
    ) -> Iterator[Windows]:
        """Take any frame of at most a block: leave out late rows, and cut at gaps."""
        if len(time_ns) == 0:
            return
        before = self._latest_before(time_ns)
        is_accepted = time_ns > before
        if self._last_ns is None:
            is_accepted[0] = True
        rows = np.flatnonzero(is_accepted)
        self.discarded["out_of_order"] += len(time_ns) - len(rows)
        steps = (time_ns[rows] - before[rows]).view(np.uint64)
        gaps = np.flatnonzero(steps > self._longest_step_ns)
        yield from self._cut_between_gaps(samples, time_ns, index, quality, rows, gaps)

    def _latest_before(self, time_ns: np.ndarray) -> np.ndarray:
        """Return the time of the last row accepted before each row."""
        first_ns = int(time_ns[0]) if self._last_ns is None else self._last_ns
        before = np.concatenate(([np.int64(first_ns)], time_ns[:-1]))
        return np.maximum.accumulate(before)

    def _cut_between_gaps(
        self,
        samples: np.ndarray,
        time_ns: np.ndarray,
        index: int,
        quality: np.ndarray | None,
        rows: np.ndarray,
        gaps: np.ndarray,
    ) -> Iterator[Windows]:
        bounds = [0, *gaps.tolist(), len(rows)]
        for number, (first, last) in enumerate(itertools.pairwise(bounds)):
            if number > 0:
                self._break()
            run = rows[first:last]
            if quality is not None:
                self._note_marks(time_ns[run], quality[run])
            for windows in self._take(samples[run], time_ns[run], 0) if len(run) else ():
                yield msgspec.structs.replace(windows, index=run[windows.index] + index)

    def _break(self) -> None:
        """Start afresh after a gap; count the rows that no window covered."""
        self.discarded["gap"] += self._uncovered
        self._clear()

    def begin(self) -> None:
        """Start afresh, also with times before the last ones."""
        self._break()
        self._last_ns = None

    @property
    def _uncovered(self) -> int:
        return max(0, self._used + self._waiting - max(self._covered, self._next))

    @property
    def _waiting(self) -> int:
        """Rows that wait for the filter."""
        return 0 if self._filtering is None else len(self._filtering)

    # --- samples --------------------------------------------------------------------

    def _check_dtypes(self, frame: Frame) -> None:
        if frame.time_ns.dtype != _INT64:
            raise ShapeError(
                f"time_ns has dtype {frame.time_ns.dtype}", where=frame.stream, expected="int64"
            )
        self._adopt(frame.samples.dtype, frame.stream)
        self._source_dtype = frame.samples.dtype

    def _channel_error(self, frame: Frame) -> ShapeError:
        return ShapeError(
            f"frame has {frame.samples.shape[1]} channels, shape {frame.samples.shape}",
            where=frame.stream,
            expected=f"{self._channels}: {', '.join(self._names[:16])}",
            remedy="Map the source's columns to the model's channels.",
        )

    def _adopt(self, dtype: np.dtype, where: str) -> None:
        is_float = dtype.kind == "f" or (self._filtering is not None and dtype.kind in "biu")
        native = dtype if dtype.isnative else dtype.newbyteorder("=")
        kept = _FLOAT32 if is_float else native
        if kept == self._dtype:
            return
        if self._dtype is not None or kept.kind not in "biuf":
            raise ShapeError(
                f"samples have dtype {dtype}",
                where=where,
                expected="a real number type" if self._dtype is None else str(self._dtype),
                remedy="A source must keep one sample type for the whole stream.",
            )
        self._allocate(kept)

    def _allocate(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._samples = np.empty((self._capacity, self._channels), dtype)
        self._times = np.empty(self._capacity, np.int64)

    def _take(self, samples: np.ndarray, time_ns: np.ndarray, index: int) -> tuple[Windows, ...]:
        """Add rows that follow each other, ``index`` being the first's; return what is due."""
        self._last_ns = time_ns.item(-1)
        if not self._is_padded:
            self._append_padding(time_ns.item(0))
        is_begun = self._next != self._used
        if not is_begun and len(time_ns) >= self._length and self._is_as_kept(samples):
            return (self._passed_through(samples, time_ns, index),)
        add = self._store if self._filtering is None else self._append
        windows = self._due(add(samples, time_ns), index)
        if windows is None:
            return ()
        return self._finite(windows) if len(self._bad) else (windows,)

    def _is_as_kept(self, samples: np.ndarray) -> bool:
        """Whether rows may be used as they are, without going through the buffer."""
        return (
            samples.dtype is self._dtype
            and self._filtering is None
            and samples.flags.c_contiguous
            and (samples.dtype is not _FLOAT32 or _is_finite(samples))
        )

    def _passed_through(self, samples: np.ndarray, time_ns: np.ndarray, index: int) -> Windows:
        """Cut complete windows out of a frame itself, and keep what no window is done with."""
        length, hop, rows = self._length, self._hop, len(samples)
        count = (rows - length) // hop + 1
        windows = self._windows(samples, time_ns, 0, count, index + length - 1)
        done = count * hop
        self._used, self._next = 0, done - rows if done > rows else 0
        self._covered = length - hop if length > hop else 0
        if done < rows:
            self._store(samples[done:], time_ns[done:])
        return windows

    def _append(self, samples: np.ndarray, time_ns: np.ndarray) -> int:
        """Add rows and return the position that the first has, or will have once it is filtered."""
        if self._filtering is None:
            return self._store(samples, time_ns)
        before = len(self._filtering)
        return self._store(*self._filtering.feed(samples, time_ns)) + before

    def _store(self, samples: np.ndarray, time_ns: np.ndarray) -> int:
        """Copy rows into the buffer and return the position of the first."""
        first = self._used
        last = first + len(time_ns)
        if last > self._turn:
            self._compact()
            first = self._used
            last = first + len(time_ns)
        self._used = last
        self._samples[first:last] = samples
        self._times[first:last] = time_ns
        if self._dtype is _FLOAT32:
            self._note_bad(self._samples[first:last], first)
        return first

    def _append_padding(self, first_ns: int) -> None:
        """Imagine samples of value 0 before the first one of a stretch."""
        self._is_padded = True
        before = np.arange(-self._pad, 0, dtype=np.int64) * self._period_ns
        self._append(np.zeros((self._pad, self._channels), self.dtype), before + first_ns)
        self._covered = self._pad

    def _note_bad(self, rows: np.ndarray, first: int) -> None:
        if not _is_finite(rows):
            found = np.flatnonzero(~np.isfinite(rows).all(axis=1)) + first
            self._bad = np.concatenate((self._bad, found))

    def _compact(self) -> None:
        """Move what the next windows need to the buffer's start."""
        shift = min(self._next, self._used)
        kept = self._used - shift
        self._samples[:kept] = self._samples[shift : self._used]
        self._times[:kept] = self._times[shift : self._used]
        self._used = kept
        self._next -= shift
        self._covered = max(0, self._covered - shift)
        if len(self._bad):
            self._bad = self._bad[self._bad >= shift] - shift

    # --- suspect samples ------------------------------------------------------------

    def _cut_marked(self, frame: Frame) -> Iterator[Windows]:
        """Take a frame of at most a block that has suspect samples, or follows such ones."""
        cut = self._cut_irregular(frame.samples, frame.time_ns, frame.index, frame.quality)
        for windows in cut:
            marks = self._marks
            quality = None if marks is None else marks.over(windows.start_ns, windows.end_ns)
            yield msgspec.structs.replace(windows, quality=quality)
        self._forget_marks()

    def _note_marks(self, time_ns: np.ndarray, quality: np.ndarray) -> None:
        self._marks = self._marks or Marks()
        self._marks.add(time_ns, quality)

    def _forget_marks(self) -> None:
        """Forget samples that no window to come contains; without any, nothing is slower."""
        if self._marks is None:
            return
        if self._next < self._used:
            self._marks.forget_before(self._times.item(self._next))
        elif self._filtering is not None and self._waiting:
            self._marks.forget_before(self._filtering.times.item(0))
        else:
            self._marks = None
        self._marks = self._marks or None

    # --- windows --------------------------------------------------------------------

    def _due(self, begin: int, index: int) -> Windows | None:
        """Return the complete windows; the row at ``begin`` has ``index``."""
        length, hop, start = self._length, self._hop, self._next
        count = (self._used - start - length) // hop + 1
        if count <= 0:
            return None
        self._next = start + count * hop
        self._covered = self._next - hop + length
        last_index = index + start + length - 1 - begin
        return self._windows(self._samples, self._times, start, count, last_index)

    def _windows(
        self, rows: np.ndarray, time_ns: np.ndarray, start: int, count: int, last_index: int
    ) -> Windows:
        """Return ``count`` windows of ``rows``; ``last_index`` is that of the first one's end."""
        if count == 1:
            return self._window(rows, time_ns, start, last_index)
        is_fresh, self._is_fresh = self._is_fresh, False
        ends = np.arange(count) * self._hop
        return Windows(
            ends + last_index,
            time_ns[ends + start],
            time_ns[ends + (start + self._length - 1)],
            self._view(rows, start, count),
            is_fresh,
        )

    def _window(
        self, rows: np.ndarray, time_ns: np.ndarray, start: int, last_index: int
    ) -> Windows:
        """Return the window that begins with row ``start``."""
        stop = start + self._length
        is_fresh, self._is_fresh = self._is_fresh, False
        # Half of what it takes to make an array of three numbers.
        stamps = np.empty(3, _INT64)
        stamps[0], stamps[1], stamps[2] = last_index, time_ns[start], time_ns[stop - 1]
        return Windows(stamps[:1], stamps[1:2], stamps[2:], rows[None, start:stop], is_fresh)

    def _view(self, rows: np.ndarray, start: int, count: int) -> np.ndarray:
        row, item = rows.strides
        return np.ndarray(
            (count, self._length, self._channels),
            rows.dtype,
            rows,
            start * row,
            (self._hop * row, row, item),
        )

    def _finite(self, windows: Windows) -> tuple[Windows, ...]:
        """Leave out windows with a bad row, and forget bad rows that are behind."""
        starts = self._next - self._hop * np.arange(len(windows), 0, -1)
        nearest = np.append(self._bad, self._used)[np.searchsorted(self._bad, starts)]
        is_good = nearest >= starts + self._length
        self._bad = self._bad[self._bad >= self._next]
        kept = int(np.count_nonzero(is_good))
        if kept == len(windows):
            return (windows,)
        self.discarded["not_finite"] += len(windows) - kept
        self._is_fresh = not is_good[-1]
        # What follows a window that was left out begins a stretch of its own.
        edges = np.flatnonzero(np.diff(is_good, prepend=False, append=False)).tolist()
        return tuple(
            Windows(
                windows.index[first:last],
                windows.start_ns[first:last],
                windows.end_ns[first:last],
                windows.samples[first:last],
                windows.is_fresh or first > 0,
            )
            for first, last in zip(edges[::2], edges[1::2], strict=True)
        )

    # --- state ----------------------------------------------------------------------

    def state(self) -> CutterState:
        """Return what must be kept to go on later as if nothing had happened."""
        first = min(self._next, self._used)
        if self._dtype is None:
            state = CutterState("", b"", 0, 0, b"", self._next, 0, None, dict(self.discarded))
            return msgspec.structs.replace(state, is_padded=self._is_padded)
        time_ns = self._times[first : self._used]
        if self._filtering is not None:
            time_ns = np.concatenate((time_ns, self._filtering.times))
        steps = np.diff(time_ns)
        step_ns = int(steps[0]) if len(steps) else 0
        jitter = steps - step_ns
        return CutterState(
            dtype=self._dtype.str,
            samples=self._samples[first : self._used].tobytes(),
            first_ns=int(time_ns[0]) if len(time_ns) else 0,
            step_ns=step_ns,
            jitter=jitter.tobytes() if jitter.any() else b"",
            skip=self._next - first,
            covered=max(0, self._covered - first),
            last_ns=self._last_ns,
            discarded=dict(self.discarded),
            is_fresh=self._is_fresh,
            is_padded=self._is_padded,
            raw=b"" if self._filtering is None else self._filtering.rows.tobytes(),
            filter=b"" if self._filtering is None else self._filtering.state(),
            quality=b"" if self._marks is None else self._marks.along(time_ns).tobytes(),
        )

    def restore(self, state: CutterState) -> None:
        """Go on from ``state``.

        Raises:
            ModelError: It does not fit this window or these channels.
        """
        samples, raw, time_ns = self._decoded(state)
        self._clear()
        self._dtype = self._source_dtype = None
        self._last_ns = None
        if state.dtype:
            self._allocate(samples.dtype)
            filtering, self._filtering = self._filtering, None
            self._append(samples, time_ns[: len(samples)])
            self._filtering = filtering
        if self._filtering is not None and state.dtype:
            self._filtering.restore(state.filter, raw, time_ns[len(samples) :])
        if state.quality:
            self._note_marks(time_ns, np.frombuffer(state.quality, MASK))
        self._next = state.skip
        self._covered = state.covered
        self._last_ns = state.last_ns
        self._is_fresh = state.is_fresh
        self._is_padded = state.is_padded
        self.discarded.update(state.discarded)

    def _decoded(self, state: CutterState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the buffered rows, the rows that waited for the filter, and the times of both."""
        try:
            dtype = np.dtype(state.dtype or np.float32)
            samples = np.frombuffer(state.samples, dtype).reshape(-1, self._channels)
            raw = np.frombuffer(state.raw, np.float32).reshape(-1, self._channels)
            jitter = np.frombuffer(state.jitter, np.int64) if state.jitter else 0
            rows = len(samples) + len(raw)
            steps = np.full(max(0, rows - 1), state.step_ns, np.int64) + jitter
            time_ns = np.cumsum(np.concatenate(([state.first_ns], steps)), dtype=np.int64)[:rows]
        except (ValueError, TypeError, OverflowError) as error:
            raise self._misfit(str(error)) from error
        is_sane = (
            len(samples) < self._length
            and samples.dtype.kind in "biuf"
            and (samples.dtype.kind != "f" or samples.dtype == np.float32)
            and 0 <= state.skip <= self._hop
            and 0 <= state.covered <= max(rows, self._pad)
            and (len(raw) == 0 or self._filtering is not None)
            and len(state.quality) in (0, rows * MASK.itemsize)
            and state.discarded.keys() == self.discarded.keys()
            and (state.last_ns is not None or rows == 0)
            and -(2**63) <= (state.last_ns or 0) < 2**63
        )
        if not is_sane:
            raise self._misfit(f"{len(samples)} rows of {state.dtype}")
        return samples, raw, time_ns

    def _misfit(self, what: str) -> ModelError:
        return ModelError(
            f"the snapshot's window buffer does not fit: {what}",
            expected=f"fewer than {self._length} rows of {self._channels} channels",
            remedy="Start without the snapshot; the samples in it are lost.",
        )

    def take_over(self, other: Cutter) -> None:
        """Go on with the rows of ``other``, the cutter this one replaces.

        With the same window no window is lost. With another length or hop the
        first window ends at the earliest with the next sample, and with other
        channels, or where either filters its samples differently, the rows of an
        unfinished window are counted as ``gap``.
        """
        is_same_window = (self._length, self._hop) == (other._length, other._hop)
        if self._names != other._names or not self._filters_like(other, is_same_window):
            self._last_ns = other._last_ns
            self.discarded = dict(other.discarded)
            self.discarded["gap"] += other._uncovered
            return
        state = other.state()
        if not is_same_window:
            state = self._fitted(state)
        self.restore(state)

    def _filters_like(self, other: Cutter, is_same_window: bool) -> bool:
        if self._filtering is None or other._filtering is None:
            return self._filtering is other._filtering
        # Another window has another block: what waits would not fit.
        return is_same_window and self._filtering.specs == other._filtering.specs

    def _fitted(self, state: CutterState) -> CutterState:
        """Cut a state of another window down to what this one may hold."""
        row_bytes = self._channels * np.dtype(state.dtype or "f4").itemsize
        rows = len(state.samples) // row_bytes
        dropped = max(0, rows - (self._length - 1))
        steps = np.full(max(0, rows - 1), state.step_ns, np.int64)
        steps += np.frombuffer(state.jitter, np.int64) if state.jitter else 0
        left = steps[dropped:]
        step_ns = int(left[0]) if len(left) else 0
        return msgspec.structs.replace(
            state,
            samples=state.samples[dropped * row_bytes :],
            first_ns=state.first_ns + int(steps[:dropped].sum()),
            step_ns=step_ns,
            jitter=(left - step_ns).tobytes(),
            skip=0,
            covered=max(0, state.covered - dropped),
            quality=state.quality[dropped * MASK.itemsize :],
        )


def _is_finite(rows: np.ndarray) -> bool:
    is_finite = np.isfinite(rows)
    # The first that is not, if there is one: three times as fast as asking all.
    return not rows.size or bool(is_finite.item(is_finite.argmin()))
