"""Plays the tapes of several streams together, in the order of event time, at any speed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import msgspec
import numpy as np

from edge_runtime.modes.replay import Bundles, Comparison, Replay, Step, entries_of
from edge_runtime.ports import Clock
from edge_runtime.quality import masks_or_none
from edge_runtime.sources.pace import Pace, RealTime, Unpaced
from edge_runtime.tape import Segment, Stretch, Tape, frames_of
from edge_runtime.types import Estimates, Frame, Output, SideRows

__all__ = ["Player", "Span", "StreamReport", "apart"]

_Rows = TypeVar("_Rows", Estimates, SideRows)

_PATIENCE_S = 0.5
_LATEST_NS = 1 << 62


class Span(msgspec.Struct, frozen=True):
    """Which windows are shown: those that end from ``first_ns`` on, before ``last_ns``."""

    first_ns: int = -_LATEST_NS
    last_ns: int = _LATEST_NS


class _Counts(msgspec.Struct):
    """What was played of one stream, see `StreamReport`."""

    frames: int = 0
    passed: int = 0
    windows: int = 0
    decisions: int = 0


class StreamReport(msgspec.Struct, frozen=True):
    """What became of one stream.

    Attributes:
        frames: Frames played.
        passed: Of these, such as the device's model did not answer.
        windows: Windows in the span.
        decisions: Decisions in the span.
        is_same_bundle: Whether it was answered by the bundles that had answered then.
        is_equal: Whether every byte is what the device had made.
        lost_bytes: Bytes that a crash had cut off, or that were being written.
        comparison: In numbers.
    """

    frames: int
    passed: int
    windows: int
    decisions: int
    is_same_bundle: bool
    is_equal: bool
    lost_bytes: int
    comparison: Comparison


class Player:
    """Plays tapes.

    Args:
        tapes: By stream.
        bundles: Where bundles come from.
        span: Which windows are shown.

    Attributes:
        samples: Samples on the tapes that will be played.
        played: Samples played so far.
    """

    def __init__(self, tapes: Mapping[str, Tape], bundles: Bundles, span: Span) -> None:
        self._span = span
        self._segments = {name: within(tape.segments, span) for name, tape in tapes.items()}
        self._replays = {name: Replay(name, bundles) for name in tapes}
        self._counts = {name: _Counts() for name in tapes}
        self._times = self._due_times()
        self.played = 0

    @property
    def samples(self) -> int:
        """Samples on the tapes."""
        return self._samples

    def play(self, speed: float | None, clock: Clock) -> Iterator[Step]:
        """Push every frame when it is due, and give out what comes of it.

        Frames before and behind the span, which only lead to it or may revise it, are
        pushed at once.

        Args:
            speed: 1 as fast as it was, N for N times as fast; None for no pace.
            clock: Followed.

        Raises:
            EdgeError: See `Replay.run`.
        """
        pace = Unpaced() if speed is None else RealTime(speed, clock, time_ns=self._times)
        steps = [self._stream_steps(name) for name in self._replays]
        number = 0
        for step in heapq.merge(*steps, key=_due_ns):
            if step.frame is not None:
                if self._is_paced(step.frame, step.due_ns):
                    _wait(pace, number)
                    number += 1
                self.played += len(step.frame)
            yield self._shown(step)

    def report(self) -> dict[str, StreamReport]:
        """Say what became of each stream."""
        return {name: self._stream_report(name) for name in self._replays}

    def close(self) -> None:
        """Free the models."""
        for replay in self._replays.values():
            replay.close()

    def _stream_steps(self, name: str) -> Iterator[Step]:
        return self._replays[name].run(entries_of(self._segments[name]))

    def _due_times(self) -> np.ndarray:
        """Look through the tapes for the times at which paced frames are due, in that order."""
        times: list[int] = []
        self._samples = 0
        for segments in self._segments.values():
            due_ns = 0
            for _, entry in entries_of(segments):
                for frame in frames_of(entry) if isinstance(entry, Stretch) else ():
                    due_ns = frame.time_ns.item(-1) if len(frame) else due_ns
                    if self._is_paced(frame, due_ns):
                        times.append(due_ns)
                    self._samples += len(frame)
        return np.sort(np.array(times, np.int64))

    def _is_paced(self, frame: Frame, due_ns: int) -> bool:
        """Whether a window of the span may end in a frame."""
        is_begun = not len(frame) or frame.time_ns.item(0) < self._span.last_ns
        return is_begun and due_ns >= self._span.first_ns

    def _shown(self, step: Step) -> Step:
        counts = self._counts[step.stream]
        counts.frames += step.frame is not None
        if step.output is None:
            counts.passed += 1
            return step
        output = cut(step.output, self._span)
        counts.windows += len(output.estimates)
        counts.decisions += len(output.decisions)
        return msgspec.structs.replace(step, output=output)

    def _stream_report(self, name: str) -> StreamReport:
        replay = self._replays[name]
        return StreamReport(
            **msgspec.structs.asdict(self._counts[name]),
            is_same_bundle=replay.is_same,
            is_equal=replay.comparison.is_equal,
            lost_bytes=sum(one.lost_bytes for one in self._segments[name]),
            comparison=replay.comparison,
        )


def within(segments: Sequence[Segment], span: Span) -> Sequence[Segment]:
    """Return the segments that hold a span; the windows it begins with lie in the first."""
    firsts = [one.first_ns for one in segments]
    known = [-_LATEST_NS if first is None else first for first in firsts]
    # A wild stamp further on must not hide what lies before it.
    early = takewhile(lambda i: known[i] <= span.first_ns, range(len(known)))
    first = max((i for i in early if firsts[i] is not None), default=0)
    return [
        one
        for one, first_ns in zip(segments[first:], known[first:], strict=True)
        # On a grid, samples that come later may revise what is in the span.
        if first_ns < span.last_ns or one.has_grid
    ]


def cut(output: Output, span: Span) -> Output:
    """Leave out what ends outside a span."""

    def is_inside(time_ns: np.ndarray) -> np.ndarray:
        inside: np.ndarray = (time_ns >= span.first_ns) & (time_ns < span.last_ns)
        return inside

    gone = output.retracted
    if gone is not None:
        gone = _only(gone, is_inside(gone.end_ns))
    sides = [_rows_of(side, is_inside(side.time_ns)) for side in output.aside]
    decisions = [one for one in output.decisions if span.first_ns <= one.time_ns < span.last_ns]
    return msgspec.structs.replace(
        output,
        estimates=_only(output.estimates, is_inside(output.estimates.end_ns)),
        decisions=tuple(decisions),
        retracted=gone if gone is not None and len(gone) else None,
        aside=tuple(side for side in sides if len(side)),
    )


def apart(output: Output) -> list[Output]:
    """Return an output for every window, and one for what was said of no window's answer."""
    rows = np.arange(len(output.estimates))
    decisions = list(output.decisions)
    parts = []
    for row in rows.tolist():
        index = output.estimates.index.item(row)
        its = tuple(one for one in decisions if one.index == index)
        decisions = [one for one in decisions if one.index != index]
        parts.append(Output(output.stream, _only(output.estimates, rows == row), its))
    rest = msgspec.structs.replace(
        output, estimates=_only(output.estimates, rows < 0), decisions=tuple(decisions)
    )
    return parts if rest.is_empty else [*parts, rest]


def _only(estimates: Estimates, is_wanted: np.ndarray) -> Estimates:
    if is_wanted.all():
        return estimates
    return _rows_of(estimates, is_wanted)


def _rows_of(rows: _Rows, is_wanted: np.ndarray) -> _Rows:
    """Return some rows of a struct of columns; of masks only if any is left."""
    columns: dict[str, Any] = {
        name: value[is_wanted]
        for name, value in msgspec.structs.asdict(rows).items()
        if isinstance(value, np.ndarray)
    }
    if "quality" in columns:
        columns["quality"] = masks_or_none(columns["quality"])
    return msgspec.structs.replace(rows, **columns)


def _due_ns(step: Step) -> int:
    return step.due_ns


def _wait(pace: Pace, number: int) -> None:
    while not pace.wait(number, 0, _PATIENCE_S):
        pass
