"""Frames to stretches and back, to the bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np

from edge_runtime.errors import StoreError
from edge_runtime.tape.entries import Column, Silence, Standing, Stretch
from edge_runtime.types import Frame

__all__ = ["Gathered", "Packer", "Run", "frames_of", "stretches_of"]

_FIELDS = {field.name for field in msgspec.structs.fields(Frame)}
_AS_BYTES = np.ndarray.tobytes
_SMALL = (np.int8, np.int16, np.int32)


class Run(msgspec.Struct, frozen=True, eq=False):
    """Frames in the order in which they came.

    Attributes:
        frames: At least one.
        is_passed: Whether nobody answers them.
    """

    frames: Sequence[Frame]
    is_passed: bool = False


class Packer:
    """Packs frames; used by one thread.

    Times take eight times what is kept of them and more: they are laid out in memory that
    is kept from one commit to the next, because fresh memory costs more than the work.
    """

    def __init__(self) -> None:
        self._times = self._steps = np.empty(0, np.int64)

    def stretches(self, run: Run) -> Iterator[Stretch]:
        """Pack frames; where they do not go on as before, in several parts."""
        first = 0
        for last in _ends(run.frames):
            yield self._packed(run.frames[first:last], is_passed=run.is_passed)
            first = last

    def _packed(self, frames: Sequence[Frame], *, is_passed: bool) -> Stretch:
        first = frames[0]
        samples = [frame.samples for frame in frames]
        counts = tuple([len(one) for one in samples])
        times = self._packed_times([frame.time_ns for frame in frames], sum(counts))
        columns = {"samples": _column(samples)}
        if first.quality is not None:
            columns["quality"] = _column([f.quality for f in frames if f.quality is not None])
        facts = {"stream": first.stream, "clock": first.clock, "step_ns": first.step_ns}
        return Stretch(first.index, counts, *times, columns, facts, is_passed)

    def _packed_times(
        self, parts: Sequence[np.ndarray], count: int
    ) -> tuple[int, int, Column | None]:
        """Return first time, step, and what the steps differ by in the smallest integers.

        Differences may wrap around; adding them up wraps back.
        """
        if count > len(self._times):
            self._times, self._steps = np.empty(count, np.int64), np.empty(count, np.int64)
        times = np.concatenate(parts, out=self._times[:count])
        if count < 2:
            return times.item(0) if count else 0, 0, None
        steps = np.subtract(times[1:], times[:-1], out=self._steps[: count - 1])
        step_ns = steps.item(0)
        if (steps == step_ns).all():
            return times.item(0), step_ns, None
        steps -= step_ns
        small = (dtype for dtype in _SMALL if _fits(steps, dtype))
        return times.item(0), step_ns, _column([steps.astype(next(small, np.int64))])


class Gathered:
    """What a stream takes in between two commits; used by one thread.

    Frames are left as they are: whoever looks at them here, behind the model, reads them
    from memory again and pushes the model's weights out of the cache.

    Attributes:
        add: Takes the next frame, whose arrays nobody changes any more; the list's own
            method, so that no function of ours is read from memory either.
    """

    def __init__(self) -> None:
        self._items: list[Run | Silence | Standing] = []
        # What came after the last of the items.
        self._frames: list[Frame] = []
        self.add = self._frames.append
        # The last item, if nothing came of it.
        self._quiet: Silence | None = None

    def pass_by(self, frame: Frame) -> None:
        """Take a frame that nobody answers."""
        self._put(Run((frame,), is_passed=True))

    def stand(self, standing: Standing) -> None:
        """Note how the stream stands, where its base or layers have changed."""
        self._put(standing)

    def pass_time(self, passed_s: float, *, is_quiet: bool) -> None:
        """Note that time went on without a frame, and whether nothing came of it.

        A longer silence takes the place of one of which nothing came: a stream may be
        silent for ever, and no commit takes what is gathered here.
        """
        if self._quiet is not None and not self._frames and self._items[-1] is self._quiet:
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
        self._end_run()
        items, self._items = self._items, []
        self._quiet = None
        return items

    def _put(self, item: Run | Silence | Standing) -> None:
        self._end_run()
        self._items.append(item)

    def _end_run(self) -> None:
        if self._frames:
            self._items.append(Run(self._frames.copy()))
            self._frames.clear()


def stretches_of(frames: Iterable[Frame]) -> list[Stretch]:
    """Join frames that follow each other, and pack them."""
    gathered = Gathered()
    for frame in frames:
        gathered.add(frame)
    packer = Packer()
    runs = [item for item in gathered.take() if isinstance(item, Run)]
    return [stretch for run in runs for stretch in packer.stretches(run)]


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


def _ends(frames: Sequence[Frame]) -> Iterator[int]:
    """Yield the end of each part in which frames follow each other and are of one kind.

    All frames of a part carry masks, or none does.
    """
    dtype, row_bytes, step_ns, clock, is_clean = _kind(frames[0])
    next_index = frames[0].index
    for place, frame in enumerate(frames):
        samples = frame.samples
        count = len(samples)
        if (
            frame.index != next_index
            or samples.dtype is not dtype
            # A number is quicker to have than a shape.
            or samples.nbytes != count * row_bytes
            or frame.step_ns != step_ns
            or frame.clock != clock
            or (frame.quality is None) is not is_clean
        ):
            yield place
            dtype, row_bytes, step_ns, clock, is_clean = _kind(frame)
        next_index = frame.index + count
    yield len(frames)


def _kind(frame: Frame) -> tuple[np.dtype, int, int | None, str, bool]:
    """Return what frames of one part have in common."""
    samples = frame.samples
    row_bytes = samples.shape[1] * samples.itemsize
    return samples.dtype, row_bytes, frame.step_ns, frame.clock, frame.quality is None


def _column(parts: Sequence[np.ndarray]) -> Column:
    first = parts[0]
    # Half of what one array of all parts takes.
    return Column(first.dtype.str, first.shape[1:], b"".join(map(_AS_BYTES, parts)))


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
