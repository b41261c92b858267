"""Frames to stretches and back, to the bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np

from edge_runtime.errors import StoreError
from edge_runtime.tape.entries import Column, Silence, Standing, Stretch
from edge_runtime.types import ClockQuality, Frame

__all__ = ["Gathered", "Run", "frames_of", "stretches_of"]

_FIELDS = {field.name for field in msgspec.structs.fields(Frame)}
_SMALL = (np.int8, np.int16, np.int32)


_Part = tuple[int, bytes, np.ndarray, np.ndarray | None]


class Run:
    """Frames of one kind: all of them carry masks, or none does.

    Args:
        first: The first of them.
        is_passed: Whether nobody answers them.

    Attributes:
        parts: Index, samples, times and masks of each.
        is_passed: As given.
    """

    def __init__(self, first: Frame, *, is_passed: bool) -> None:
        self._first = first
        self.is_passed = is_passed
        self.parts: list[_Part] = [
            (first.index, first.samples.tobytes(), first.time_ns, first.quality)
        ]

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self.parts)

    def stretches(self) -> Iterator[Stretch]:
        """Pack them; where samples are missing in between, in several parts."""
        begin, next_index = 0, self.parts[0][0]
        for place, (index, _, times, _) in enumerate(self.parts):
            if index != next_index:
                yield self._packed(self.parts[begin:place])
                begin = place
            next_index = index + len(times)
        yield self._packed(self.parts[begin:])

    def _packed(self, parts: Sequence[_Part]) -> Stretch:
        first = self._first
        first_ns, step_ns, jitter = _packed_times(np.concatenate([one[2] for one in parts]))
        columns = {"samples": _column(first.samples, b"".join([one[1] for one in parts]))}
        if first.quality is not None:
            masks = b"".join([one[3].tobytes() for one in parts if one[3] is not None])
            columns["quality"] = _column(first.quality, masks)
        facts = {"stream": first.stream, "clock": first.clock, "step_ns": first.step_ns}
        counts = tuple([len(one[2]) for one in parts])
        return Stretch(
            parts[0][0], counts, first_ns, step_ns, jitter, columns, facts, self.is_passed
        )


class Gathered:
    """What a stream takes in between two commits; used by one thread.

    Samples are copied as bytes while they are in the cache; times, which the pipeline
    seldom looks at where a source promises a steady clock, are left where they are.
    """

    def __init__(self) -> None:
        self._items: list[Run | Silence | Standing] = []
        self._parts: list[_Part] = []
        # The kind of the frames in `_parts`; no frame has no dtype.
        self._dtype: np.dtype | None = None
        self._channels = 0
        self._step_ns: int | None = None
        self._clock: ClockQuality = "unsynced"
        self._is_clean = True
        # The last item, if nothing came of it.
        self._quiet: Silence | None = None

    def add(self, frame: Frame) -> None:
        """Take the next frame; the pipeline has it too."""
        samples, quality = frame.samples, frame.quality
        if (
            samples.dtype is self._dtype
            and frame.step_ns == self._step_ns
            and frame.clock == self._clock
            and samples.shape[1] == self._channels
            and (quality is None) is self._is_clean
        ):
            self._parts.append((frame.index, samples.tobytes(), frame.time_ns, quality))
        else:
            self._begin_run(frame)

    def pass_by(self, frame: Frame) -> None:
        """Take a frame that nobody answers."""
        self._put(Run(frame, is_passed=True))

    def stand(self, standing: Standing) -> None:
        """Note how the stream stands, where its base or layers have changed."""
        self._put(standing)

    def pass_time(self, passed_s: float, *, is_quiet: bool) -> None:
        """Note that time went on without a frame, and whether nothing came of it.

        A longer silence takes the place of one of which nothing came: a stream may be
        silent for ever, and no commit takes what is gathered here.
        """
        if self._quiet is not None and self._items[-1] is self._quiet:
            passed_s = max(passed_s, self._quiet.passed_s or 0.0)
            self._items.pop()
        silence = Silence(passed_s)
        self._put(silence)
        self._quiet = silence if is_quiet else None

    def finish(self) -> None:
        """Note that the stream has ended."""
        self._put(Silence(None))

    def take(self) -> list[Run | Silence | Standing]:
        """Return all of it, and start anew."""
        items, self._items = self._items, []
        self._quiet = None
        self._end_run()
        return items

    def _put(self, item: Run | Silence | Standing) -> None:
        self._items.append(item)
        self._end_run()

    def _begin_run(self, frame: Frame) -> None:
        run = Run(frame, is_passed=False)
        self._items.append(run)
        self._parts = run.parts
        self._dtype, self._channels = frame.samples.dtype, frame.samples.shape[1]
        self._step_ns, self._clock = frame.step_ns, frame.clock
        self._is_clean = frame.quality is None

    def _end_run(self) -> None:
        """Let the next frame begin a run."""
        self._dtype = None


def stretches_of(frames: Iterable[Frame]) -> list[Stretch]:
    """Join frames that follow each other, and pack them."""
    gathered = Gathered()
    for frame in frames:
        gathered.add(frame)
    runs = [item for item in gathered.take() if isinstance(item, Run)]
    return [stretch for run in runs for stretch in run.stretches()]


def frames_of(stretch: Stretch, where: str = "tape") -> list[Frame]:
    """Unpack the frames of a stretch; their arrays cannot be written to.

    Raises:
        StoreError: Its parts do not fit each other.
    """
    try:
        return _unpacked(stretch)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"frames from sample {stretch.index} on do not unpack: {error}",
            where=where,
            expected="columns of one length",
            remedy="Replay what lies before or behind them, with --from and --to.",
        ) from error


def _column(like: np.ndarray, content: bytes) -> Column:
    return Column(like.dtype.str, like.shape[1:], content)


def _packed_times(time_ns: np.ndarray) -> tuple[int, int, Column | None]:
    """Return first time, step, and what the steps differ by in the smallest integers.

    Differences may wrap around; adding them up wraps back.
    """
    if len(time_ns) < 2:
        return int(time_ns[0]) if len(time_ns) else 0, 0, None
    steps = time_ns[1:] - time_ns[:-1]
    step_ns = int(steps[0])
    steps -= steps[0]
    if not steps.any():
        return int(time_ns[0]), step_ns, None
    small = (dtype for dtype in _SMALL if _fits(steps, dtype))
    jitter = steps.astype(next(small, np.int64))
    return int(time_ns[0]), step_ns, _column(jitter, jitter.tobytes())


def _fits(steps: np.ndarray, dtype: type[np.signedinteger[Any]]) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= steps.min() and steps.max() <= limits.max)


def _unpacked(stretch: Stretch) -> list[Frame]:
    ends = list(accumulate(stretch.counts))
    total = ends[-1] if ends else 0
    arrays = {
        name: _array(column, total) for name, column in stretch.columns.items() if name in _FIELDS
    }
    arrays["time_ns"] = _times(stretch, total)
    known = {name: value for name, value in stretch.facts.items() if name in _FIELDS}
    frames = []
    for first, last in zip([0, *ends], ends, strict=False):
        fields: dict[str, Any] = {name: array[first:last] for name, array in arrays.items()}
        frames.append(Frame(index=stretch.index + first, **fields, **known))
    return frames


def _times(stretch: Stretch, total: int) -> np.ndarray:
    steps = np.full(max(0, total - 1), stretch.step_ns, np.int64)
    if stretch.jitter is not None:
        steps += _array(stretch.jitter, max(0, total - 1))
    with np.errstate(over="ignore"):
        time_ns = np.cumsum(np.concatenate(([np.int64(stretch.first_ns)], steps)), dtype=np.int64)
    time_ns.flags.writeable = False
    return time_ns[:total]


def _array(column: Column, rows: int) -> np.ndarray:
    return np.frombuffer(column.content, np.dtype(column.dtype)).reshape(rows, *column.shape)
