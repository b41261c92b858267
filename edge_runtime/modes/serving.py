"""One stream on the pipeline thread: its pipeline, and what waits for the next commit."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from edge_runtime.metrics import Histogram
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Clock
from edge_runtime.spec import Layer
from edge_runtime.types import Frame, Output

__all__ = ["Commit", "Serving"]

# Results that end a group commit before its time is up.
_COMMIT_ROWS = 200


class Commit(msgspec.Struct, frozen=True, eq=False):
    """Results and the place to resume from; both become durable together.

    Attributes:
        stream: Name of the stream.
        position: Index of the next sample to read.
        snapshot: State of the pipeline after the last output.
        base: Digest of the base that made the snapshot.
        outputs: What was produced since the commit before.
    """

    stream: str
    position: int
    snapshot: bytes
    base: str
    outputs: tuple[Output, ...]


class Serving:
    """Push frames of one stream, and hand over a `Commit` when one is due.

    Thread: the pipeline thread only.

    Attributes:
        pipeline: What is live.
        position: Index of the next sample to read.
        event_ns: Time of the newest sample; None before the first.
        due_ns: When a commit is due, monotonic; None while nothing waits.
        frames: Frames taken.
        samples: Samples in them.
        pushes: Time from a frame to its results.
    """

    def __init__(self, pipeline: Pipeline, *, position: int, commit_s: float, clock: Clock) -> None:
        self.pipeline = pipeline
        self.position = position
        self.event_ns: int | None = None
        self._commit_ns = round(commit_s * 1e9)
        self._clock = clock
        self.frames = 0
        self.samples = 0
        self.pushes = Histogram()
        self._outputs: list[Output] = []
        self._rows = 0
        self.due_ns: int | None = None

    def push(self, frame: Frame) -> Output:
        """Run one frame through the pipeline and keep its output for the next commit."""
        start_ns = time.perf_counter_ns()
        output = self.pipeline.push(frame)
        self.keep(frame, output, time.perf_counter_ns() - start_ns)
        return output

    def keep(self, frame: Frame, output: Output, taken_ns: int) -> None:
        """Keep what a frame gave, within so long, for the next commit."""
        self.pushes.note(taken_ns)
        self.skip(frame)
        rows = len(output.estimates.index)
        if rows:
            self._outputs.append(output)
            self._rows += rows

    def skip(self, frame: Frame) -> None:
        """Go past a frame that nobody answers; it is not read again after a restart."""
        count = len(frame.time_ns)
        self.frames += 1
        self.samples += count
        if count:
            self.position = frame.index + count
            self.event_ns = frame.time_ns.item(-1)
        if self.due_ns is None:
            self.due_ns = self._clock.monotonic_ns() + self._commit_ns

    def activate(self, layers: Sequence[Layer]) -> None:
        """Make a layer set live; the next window is the first to use it."""
        self.pipeline.activate(layers)

    def replace(self, pipeline: Pipeline) -> None:
        """Make a new base live; it takes over the samples of the unfinished window."""
        pipeline.take_over(self.pipeline)
        self.pipeline = pipeline

    @property
    def is_due(self) -> bool:
        """Whether it is time for a commit."""
        if self.due_ns is None:
            return False
        return self._rows >= _COMMIT_ROWS or self._clock.monotonic_ns() >= self.due_ns

    def take(self) -> Commit:
        """Return what waits, and start anew."""
        commit = Commit(
            self.pipeline.stream,
            self.position,
            self.pipeline.snapshot(),
            self.pipeline.base,
            tuple(self._outputs),
        )
        self._outputs, self._rows, self.due_ns = [], 0, None
        return commit
