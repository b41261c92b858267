"""One stream on the pipeline thread: its pipeline, and what waits for the next commit."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Clock
from edge_runtime.spec import Layer
from edge_runtime.types import Frame, Output

__all__ = ["Commit", "Serving"]

# Rows that end a group commit before its time is up.
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
    """

    def __init__(self, pipeline: Pipeline, *, position: int, commit_s: float, clock: Clock) -> None:
        self.pipeline = pipeline
        self.position = position
        self.event_ns: int | None = None
        self._commit_ns = round(commit_s * 1e9)
        self._clock = clock
        self._outputs: list[Output] = []
        self._rows = 0
        self._due_ns: int | None = None

    def push(self, frame: Frame) -> Output:
        """Run one frame through the pipeline and keep its output for the next commit."""
        output = self.pipeline.push(frame)
        self.position = frame.index + len(frame)
        self.event_ns = int(frame.time_ns[-1])
        self._outputs.append(output)
        self._rows += len(frame)
        if self._due_ns is None:
            self._due_ns = self._clock.monotonic_ns() + self._commit_ns
        return output

    def skip(self, frame: Frame) -> None:
        """Go past a frame that nobody answers; it is not read again after a restart."""
        self.position = frame.index + len(frame)
        if len(frame):
            self.event_ns = int(frame.time_ns[-1])
        self._rows += len(frame)
        if self._due_ns is None:
            self._due_ns = self._clock.monotonic_ns() + self._commit_ns

    def activate(self, layers: Sequence[Layer]) -> None:
        """Make a layer set live; the next window is the first to use it."""
        self.pipeline.activate(layers)

    def replace(self, pipeline: Pipeline) -> None:
        """Make a new base live; it takes over the samples of the unfinished window."""
        pipeline.take_over(self.pipeline)
        self.pipeline = pipeline

    def waits_s(self) -> float | None:
        """Return the time until a commit is due, s, or None while nothing waits."""
        if self._due_ns is None:
            return None
        if self._rows >= _COMMIT_ROWS:
            return 0.0
        return max(0.0, (self._due_ns - self._clock.monotonic_ns()) / 1e9)

    def take(self) -> Commit:
        """Return what waits, and start anew."""
        commit = Commit(
            self.pipeline.stream,
            self.position,
            self.pipeline.snapshot(),
            self.pipeline.base,
            tuple(self._outputs),
        )
        self._outputs, self._rows, self._due_ns = [], 0, None
        return commit
