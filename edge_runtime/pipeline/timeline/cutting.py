"""From slots to what the pipeline takes: frames whose windows lie right, and sessions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import msgspec
import numpy as np

from edge_runtime.pipeline.timeline.grid import Slots
from edge_runtime.pipeline.timeline.rows import Rows, RowsState
from edge_runtime.quality import MASK, masks_or_none
from edge_runtime.spec import StreamSpec, WindowSpec
from edge_runtime.types import Frame, Windows

__all__ = ["Runs", "RunsState", "Sessions", "SessionsState"]


class RunsState(msgspec.Struct, frozen=True):
    """What `Runs` remembers.

    Attributes:
        last: The last slot that had a value; None before the first.
        begins: Slot with which the first window of this run begins.
        unaligned: Slots passed over before that, in all runs.
    """

    last: int | None = None
    begins: int = 0
    unaligned: int = 0


class Runs:
    """Parts slots into runs without a hole, and begins each where a window may begin.

    Args:
        window: Its kind says where that is.
        stream: Name and period of the frames.
    """

    def __init__(self, window: WindowSpec, stream: str, period_ns: int) -> None:
        self._hop = window.hop if window.is_aligned else 1
        self._stream = stream
        self._period_ns = period_ns
        self.state = RunsState()

    def frames(self, slots: Slots, shift: int) -> Iterator[Frame]:
        """Yield frames of slots that follow each other; ``shift`` is added to their numbers."""
        holes = np.flatnonzero(np.diff(slots.number) != 1) + 1
        bounds = [0, *holes.tolist(), len(slots)]
        for first, last in itertools.pairwise(bounds):
            if first < last:
                yield from self._frame(slots.take(slice(first, last)), shift)

    def _frame(self, run: Slots, shift: int) -> Iterator[Frame]:
        first, last = run.number.item(0), run.number.item(-1)
        begins = self.state.begins
        if self.state.last is None or first != self.state.last + 1:
            begins = -(-first // self._hop) * self._hop
        skipped = min(len(run), max(0, begins - first))
        self.state = RunsState(last, begins, self.state.unaligned + skipped)
        if skipped < len(run):
            used = run.take(slice(skipped, None))
            yield Frame(
                self._stream,
                used.number.item(0) + shift,
                used.number * self._period_ns,
                used.samples,
                step_ns=self._period_ns,
                quality=masks_or_none(used.quality),
            )


class SessionsState(msgspec.Struct, frozen=True):
    """What `Sessions` remembers.

    Attributes:
        open: Slot numbers and samples of the open session.
        not_finite: Sessions withheld so far.
    """

    open: RowsState
    not_finite: int = 0


class Sessions:
    """Cuts slots into sessions: from the first sample to a silence, or to the most samples.

    Args:
        window: Silence, and most samples.
        stream: Rate and channels.

    Attributes:
        silence: Slots without a sample that end a session.
        not_finite: Sessions withheld so far.
    """

    def __init__(self, window: WindowSpec, stream: StreamSpec) -> None:
        self.silence = math.ceil((window.silence_s or 0.0) * stream.rate_hz)
        self._most = window.length
        self._channels = len(stream.channels)
        self._period_ns = stream.period_ns
        self._open = Rows.none(self._channels, np.dtype(np.float32))
        self.not_finite = 0

    def windows(self, slots: Slots, known: int, shift: int) -> Iterator[Windows]:
        """Yield sessions that are over.

        Args:
            slots: The next ones that have a value.
            known: Up to here no other slot has one.
            shift: Added to their numbers.
        """
        samples = slots.samples.astype(np.float32, copy=False)
        rows = self._open.joined(Rows(slots.number, samples, slots.quality))
        number = rows.time_ns
        ends = (np.flatnonzero(np.diff(number) > self.silence) + 1).tolist()
        first = 0
        for last in (*ends, len(rows)):
            while last - first >= self._most:
                yield from self._window(rows, first, first + self._most, shift)
                first += self._most
            is_over = last < len(rows) or (first < last and known - number[-1] >= self.silence)
            if is_over and first < last:
                yield from self._window(rows, first, last, shift)
            first = last if is_over else first
        self._open = rows.take(slice(first, len(rows)))

    def _window(self, rows: Rows, first: int, last: int, shift: int) -> Iterator[Windows]:
        samples = rows.samples[first:last]
        if not np.isfinite(samples).all():
            self.not_finite += 1
            return
        ends = rows.time_ns[last - 1 : last]
        yield Windows(
            ends + shift,
            rows.time_ns[first : first + 1] * self._period_ns,
            ends * self._period_ns,
            samples[None],
            quality=_bits_of_all(None if rows.quality is None else rows.quality[first:last]),
        )

    def state(self) -> SessionsState:
        """Return what must be kept to go on later as if nothing had happened."""
        return SessionsState(self._open.state(), self.not_finite)

    def restore(self, state: SessionsState) -> None:
        """Go on from ``state``.

        Raises:
            ModelError: It does not fit these channels.
        """
        self._open = Rows.of_state(state.open, self._channels)
        self.not_finite = state.not_finite


def _bits_of_all(masks: np.ndarray | None) -> np.ndarray | None:
    """Return the one mask that has the bits of all of them; None if there are none."""
    if masks is None or not masks.any():
        return None
    return np.array([np.bitwise_or.reduce(masks)], MASK)
