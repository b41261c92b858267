"""What lies behind the grid: slots in, answers out, and a place to go back to."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from edge_runtime.pipeline.pipeline import Pipeline
from edge_runtime.pipeline.timeline.cutting import Runs, RunsState, Sessions, SessionsState
from edge_runtime.pipeline.timeline.grid import Slots
from edge_runtime.types import Output

__all__ = ["Behind", "Stage"]


class Stage(msgspec.Struct, frozen=True):
    """Where the stream is behind the grid; what a checkpoint goes back to.

    Attributes:
        slot: The next to be made; None before the first.
        runs: How slots were parted.
        sessions: The open session.
        bridged: Slots that the gap policy gave a value.
        pipeline: Snapshot of the pipeline.
        incomplete: Slots left out because a channel had no value there.
    """

    slot: int | None
    runs: RunsState
    sessions: SessionsState | None
    bridged: int
    pipeline: bytes
    incomplete: int = 0


class Behind:
    """Parts slots into windows or sessions, and has the pipeline answer them.

    Args:
        pipeline: Nothing else may push into it.
        period_ns: Of the grid.

    Attributes:
        slot: The next to be made; None before the first.
        bridged: Slots that the gap policy gave a value.
        incomplete: Slots left out because a channel had no value there.
    """

    def __init__(self, pipeline: Pipeline, period_ns: int) -> None:
        window = pipeline.spec.window
        self._inner = pipeline
        self._runs = Runs(window, pipeline.stream, period_ns)
        is_session = window.kind == "session"
        self._sessions = Sessions(window, pipeline.spec.stream) if is_session else None
        self.slot: int | None = None
        self.bridged = self.incomplete = 0

    @property
    def silence(self) -> int:
        """Slots without a sample after which a window is answered; 0 but for sessions."""
        return 0 if self._sessions is None else self._sessions.silence

    @property
    def discarded(self) -> dict[str, int]:
        """Discards by reason since the stream began, less what late samples have healed."""
        inner = self._inner.discarded
        if self._sessions is not None:
            inner["not_finite"] += self._sessions.not_finite
        return inner | {"unaligned": self._runs.state.unaligned, "incomplete": self.incomplete}

    def feed(self, slots: Slots, known: int, shift: int) -> Iterator[Output]:
        """Yield the answers to the next slots.

        Args:
            slots: Those that have a value.
            known: Up to here there are no others.
            shift: Added to their numbers.
        """
        self.bridged += int(np.count_nonzero(slots.is_bridged))
        if self._sessions is not None:
            yield from map(self._inner.answer, self._sessions.windows(slots, known, shift))
            return
        yield from map(self._inner.push, self._runs.frames(slots, shift))

    def begin(self) -> None:
        """Start afresh, whatever the time of the next slot; counts go on."""
        self._inner.begin()
        self._runs.state = RunsState(unaligned=self._runs.state.unaligned)
        self.slot = None

    def stage(self) -> Stage:
        """Return where the stream is."""
        sessions = None if self._sessions is None else self._sessions.state()
        return Stage(
            self.slot,
            self._runs.state,
            sessions,
            self.bridged,
            self._inner.snapshot(),
            self.incomplete,
        )

    def go_to(self, stage: Stage, *, base: str | None = None) -> None:
        """Go on from there; see `Pipeline.restore`."""
        self._inner.restore(stage.pipeline, base=base)
        self.slot, self._runs.state = stage.slot, stage.runs
        self.bridged, self.incomplete = stage.bridged, stage.incomplete
        if self._sessions is not None and stage.sessions is not None:
            self._sessions.restore(stage.sessions)

    def adopt(self, other: Behind, *, is_same_window: bool) -> None:
        """Go on where ``other`` stands on the same grid; the pipeline has been taken over."""
        self.slot, self.bridged, self.incomplete = other.slot, other.bridged, other.incomplete
        if not is_same_window:
            return
        self._runs.state = other._runs.state
        if self._sessions is not None and other._sessions is not None:
            self._sessions.restore(other._sessions.state())
