"""One stream on the pipeline thread: its pipeline, and what waits for the next commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from edge_runtime.metrics import Histogram
from edge_runtime.pipeline import AnyPipeline, TimedPipeline
from edge_runtime.pipeline.records import EstimateRows
from edge_runtime.ports import Clock
from edge_runtime.spec import Layer
from edge_runtime.tape import Change, Gathered, Run, Silence, Standing
from edge_runtime.types import Decision, Estimates, Frame, Output, Upload

__all__ = ["Commit", "Serving", "Stand"]

Stand = Callable[[AnyPipeline, int, Change], Standing]

# What waits for a group commit ends it before its time is up when it takes so much memory.
_COMMIT_BYTES = 1 << 18
# About what these take: an output as it came, a decision, the frames of a window for the tape.
_OUTPUT_BYTES, _DECISION_BYTES, _TAPED_BYTES = 1024, 512, 1280


class Commit(msgspec.Struct, frozen=True, eq=False):
    """Results and the place to resume from; both become durable together.

    Attributes:
        stream: Name of the stream.
        position: Index of the next sample to read.
        snapshot: State of the pipeline after the last output.
        base: Digest of the base that made the snapshot.
        estimates: Of the windows since the commit before, one part for each base and layers.
        decisions: Since the commit before.
        outputs: Both as they came, for sinks; empty where there are none.
        taped: What the stream took in, for its tape; empty where it has none.
        next_index: Windows that end here or later are still to be answered; see `Standing`.
    """

    stream: str
    position: int
    snapshot: bytes
    base: str
    estimates: tuple[EstimateRows, ...]
    decisions: tuple[Decision, ...]
    outputs: tuple[Output, ...] = ()
    taped: Sequence[Run | Silence | Standing] = ()
    next_index: int | None = None


class Serving:
    """Push frames of one stream, and hand over a `Commit` when one is due.

    Thread: the pipeline thread only.

    Args:
        pipeline: What is live at first.
        position: Index of the next sample to read.
        commit_s: Longest time that results which are kept wait for a commit; 0 for not at all.
        position_s: Longest time that a position alone waits: it is only where a recording
            is read again from.
        upload: Which results are kept for the cloud.
        clock: Tells that time.
        keeps_outputs: Whether commits carry the outputs as they came.
        stand: Says how a pipeline stands at a position after a change, for the stream's
            tape; None where it has none.

    Attributes:
        pipeline: What is live.
        position: Index of the next sample to read.
        event_ns: Time of the newest sample; None before the first.
        due_ns: When a commit is due, monotonic; None while nothing waits.
        samples: Samples taken.
        pushes: Time from a frame to its results.
    """

    def __init__(
        self,
        pipeline: AnyPipeline,
        *,
        position: int,
        commit_s: float,
        clock: Clock,
        position_s: float = 10.0,
        upload: Upload = "windows",
        keeps_outputs: bool = False,
        stand: Stand | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.position = position
        self.event_ns: int | None = None
        self._commit_ns = round(commit_s * 1e9)
        # A tape grows with every frame.
        self._position_ns = self._commit_ns if stand else round(position_s * 1e9)
        self._keeps_decisions = keeps_outputs or upload != "none"
        self._keeps_estimates = keeps_outputs or upload in ("features", "windows")
        self._clock = clock
        self.samples = 0
        self.pushes = Histogram()
        self._keeps_outputs = keeps_outputs
        self._estimates: list[EstimateRows] = []
        self._decisions: list[Decision] = []
        self._outputs: list[Output] = []
        self._stand = stand
        self._taped = None if stand is None else Gathered()
        # About what all of that takes, and each window of it.
        self._held_bytes = self._row_bytes = 0
        self.due_ns: int | None = None
        self._wait_ns: int | None = None
        self._timed = pipeline if isinstance(pipeline, TimedPipeline) else None

    def push(self, frame: Frame) -> Output:
        """Run one frame through the pipeline and keep its output for the next commit."""
        start_ns = time.perf_counter_ns()
        output = self.pipeline.push(frame)
        self.keep(frame, output, time.perf_counter_ns() - start_ns)
        return output

    def keep(self, frame: Frame, output: Output, taken_ns: int) -> None:
        """Keep what a frame gave, within so long, for the next commit."""
        self.pushes.note(taken_ns)
        self.take_in(frame)
        self.keep_output(output)

    def keep_output(self, output: Output) -> None:
        """Keep results for the next commit."""
        if output.is_empty:
            return
        if len(output.estimates.index):
            self._keep_estimates(output.estimates, is_retracted=False)
        if output.retracted is not None:
            self._keep_estimates(output.retracted, is_retracted=True)
        if output.decisions:
            self._decisions.extend(output.decisions)
            self._held_bytes += _DECISION_BYTES * len(output.decisions)
        if self._keeps_outputs:
            self._outputs.append(output)
            self._held_bytes += _OUTPUT_BYTES
        is_kept = self._keeps_estimates or (self._keeps_decisions and bool(output.decisions))
        self._be_due_in(self._commit_ns if is_kept else self._position_ns)

    def _be_due_in(self, wait_ns: int) -> None:
        if self._wait_ns is not None and self._wait_ns <= wait_ns:
            return  # What began before and lasts no longer ends first.
        due_ns = self._clock.monotonic_ns() + wait_ns
        self.due_ns = due_ns if self.due_ns is None else min(self.due_ns, due_ns)
        self._wait_ns = wait_ns

    def _keep_estimates(self, estimates: Estimates, *, is_retracted: bool) -> None:
        kind = estimates.effective_id, is_retracted
        if not self._estimates or self._estimates[-1].kind != kind:
            # Another base may answer in another shape.
            self._estimates.append(EstimateRows(estimates, is_retracted=is_retracted))
            self._row_bytes = self._estimates[-1].row_bytes + (_TAPED_BYTES if self._stand else 0)
        self._estimates[-1].add(estimates)
        self._held_bytes += len(estimates.index) * self._row_bytes

    def take_in(self, frame: Frame) -> None:
        """Go past a frame that the pipeline has taken."""
        if self._taped is not None:
            self._taped.add(frame)
        self._go_past(frame)

    def skip(self, frame: Frame) -> None:
        """Go past a frame that nobody answers; it is not read again after a restart."""
        if self._taped is not None:
            self._taped.pass_by(frame)
        self._go_past(frame)

    def _go_past(self, frame: Frame) -> None:
        count = len(frame.time_ns)
        self.samples += count
        if count:
            self.position = frame.index + count
            # Where samples may come in any order, some have wild stamps.
            self.event_ns = self._timed.newest_ns if self._timed else frame.time_ns.item(-1)
        self._be_due_in(self._position_ns)

    def activate(self, layers: Sequence[Layer]) -> None:
        """Make a layer set live; the next window is the first to use it."""
        self.pipeline.activate(layers)
        self._note("layers")

    def replace(self, pipeline: AnyPipeline, *, snapshot: bytes | None = None) -> None:
        """Make a new base live; it takes over the samples of the unfinished window.

        Args:
            pipeline: The new base, or the same one opened again.
            snapshot: Where to go on instead; made by the same base.

        Raises:
            ModelError: The snapshot does not fit; nothing has changed.
        """
        before = self.pipeline
        if snapshot is not None:
            pipeline.restore(snapshot)
        elif isinstance(pipeline, TimedPipeline):
            pipeline.take_over(before)
        else:
            pipeline.take_over(before.behind if isinstance(before, TimedPipeline) else before)
        self._timed = pipeline if isinstance(pipeline, TimedPipeline) else None
        self.pipeline = pipeline
        self._note("pipeline")

    def standing(self, change: Change = "none") -> Standing | None:
        """Say how the stream stands after a change; None where it has no tape."""
        return None if self._stand is None else self._stand(self.pipeline, self.position, change)

    def _note(self, change: Change) -> None:
        standing = self.standing(change)
        if standing is not None and self._taped is not None:
            self._taped.stand(standing)

    @property
    def idle_s(self) -> float | None:
        """After how long without a frame `pass_time` is due; None for never."""
        return self._timed.idle_s if self._timed else None

    def pass_time(self, passed_s: float) -> Output | None:
        """Go on with time where no frame comes; None where that changes nothing."""
        if self._timed is None:
            return None
        output = self._timed.pass_time(passed_s)
        if self._taped is not None:
            self._taped.pass_time(passed_s, is_quiet=output.is_empty)
        self.keep_output(output)
        return output

    def finish(self) -> Output | None:
        """Answer what waits for more samples: there are none; None where nothing ever waits."""
        if self._timed is None:
            return None
        output = self._timed.finish()
        if self._taped is not None:
            self._taped.finish()
        self.keep_output(output)
        return output

    @property
    def is_due(self) -> bool:
        """Whether it is time for a commit."""
        if self.due_ns is None:
            return False
        return self._held_bytes >= _COMMIT_BYTES or self._clock.monotonic_ns() >= self.due_ns

    def take(self) -> Commit:
        """Return what waits, and start anew."""
        commit = Commit(
            self.pipeline.stream,
            self.position,
            self.pipeline.snapshot(),
            self.pipeline.base,
            tuple(self._estimates),
            tuple(self._decisions),
            tuple(self._outputs),
            () if self._taped is None else self._taped.take(),
            self._timed.next_index if self._timed else self.position,
        )
        self._estimates, self._decisions, self._outputs = [], [], []
        self._held_bytes, self.due_ns, self._wait_ns = 0, None, None
        return commit
