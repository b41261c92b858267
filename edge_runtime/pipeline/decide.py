"""Smoothed values to starts and ends of labels."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.gate import Gate, Mark, uncertain_of
from edge_runtime.pipeline.smooth import smoother_of
from edge_runtime.spec import Limit, ModelSpec
from edge_runtime.types import Decision

__all__ = ["Decider", "DeciderState"]


# Without what is not there, so that older runtimes go on from a plain state.
class DeciderState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a `Decider` must remember between two windows.

    Attributes:
        history: Rows that the smoothing keeps, oldest first, float64, C order.
        started: Labels that have started and not ended.
        smoothed_ns: When the last smoothed window ended, where smoothing goes by time.
        marks: Of labels whose limit is more than ``on`` and ``off``.
    """

    history: bytes
    started: tuple[str, ...]
    smoothed_ns: int | None = None
    marks: dict[str, Mark] = {}


class Decider:
    """Turns the values of one stream into decisions; used by one thread.

    A label starts when its smoothed value reaches ``on`` and ends when it falls
    below ``off``; a `Gate` looks closer where the limit asks for more. Until there
    are enough values to smooth nothing is decided. A started label that has no limit
    any more ends with the next window. A value that is not a number starts and ends
    nothing.

    Args:
        spec: Labels, smoothing and the name of the model line.
        stream: Name of the stream.

    Attributes:
        uncertain: Which values of the windows last decided lie in a reject band, shape
            (n, labels), bool; None where no limit has one.
    """

    def __init__(self, spec: ModelSpec, stream: str) -> None:
        self._labels = spec.labels
        self._model = spec.name
        self._stream = stream
        self._smoothing = spec.smoothing
        self._smoother = smoother_of(spec.smoothing, len(spec.labels))
        self._has_started = [False] * len(spec.labels)
        self._limits: tuple[Limit, ...] = ()
        self._watched: list[tuple[int, float, float]] = []
        self._gated: list[tuple[int, Limit, Gate]] = []
        self._marks: dict[str, Mark] = {}
        self._has_reject = False
        self._seen = 0
        self.uncertain: np.ndarray | None = None

    @property
    def started(self) -> tuple[str, ...]:
        """Labels that have started and not ended."""
        return tuple(
            label for label, has in zip(self._labels, self._has_started, strict=True) if has
        )

    @property
    def withheld(self) -> dict[str, int]:
        """Windows of each label whose start or end the reject band withheld."""
        marks = self._current_marks().items()
        return {label: mark.withheld for label, mark in marks if mark.withheld}

    def decide(
        self,
        values: np.ndarray,
        index: np.ndarray,
        end_ns: np.ndarray,
        limits: tuple[Limit, ...],
        effective_id: str,
    ) -> tuple[Decision, ...]:
        """Take the next windows' values and return what starts or ends.

        Args:
            values: Shape (n, labels), float64.
            index: Of each window's last sample, shape (n,).
            end_ns: Of each window, shape (n,).
            limits: The operating point for all of these windows.
            effective_id: Goes into the decisions.
        """
        smooth, first = self.smooth(values, end_ns) if self._smoother else (values, 0)
        if limits is not self._limits:
            self._watch(limits)
        if self._has_reject:
            self._note_uncertain(smooth, first)
        count = len(smooth)
        if (not self._watched and not self._gated) or not count:
            return ()
        crossed = self._crossed_in_one(smooth) if count == 1 else self._crossed_in_many(smooth)
        if self._gated:
            crossed = sorted(crossed + self._crossed_gates(smooth, end_ns[first:]))
        if not crossed:
            return ()
        return tuple(
            Decision(
                stream=self._stream,
                index=int(index[first + row]),
                time_ns=int(end_ns[first + row]),
                model=self._model,
                label=self._labels[column],
                edge="start" if is_start else "end",
                value=float(smooth[row, column]),
                effective_id=effective_id,
            )
            for row, column, is_start in crossed
        )

    def smooth(self, values: np.ndarray, end_ns: np.ndarray) -> tuple[np.ndarray, int]:
        """Take the next windows' values and return them smoothed: the first half of `decide`.

        See `Smoother.smooth`.
        """
        if self._smoother is None:
            return values, 0
        return self._smoother.smooth(values, end_ns)

    def _note_uncertain(self, smooth: np.ndarray, first: int) -> None:
        """Tell which values are uncertain; those not smoothed yet are not."""
        found = np.zeros((first + len(smooth), len(self._labels)), np.bool_)
        for column, limit, _ in self._gated:
            inside = uncertain_of(smooth[:, column], limit.reject)
            if inside is not None:
                found[first:, column] = inside
        self.uncertain = found

    def _watch(self, limits: tuple[Limit, ...]) -> None:
        """Choose the labels to look at: those with a limit, and those still started."""
        marks, by_label = self._current_marks(), {limit.label: limit for limit in limits}
        self._watched, self._gated = [], []
        for column, label in enumerate(self._labels):
            limit = by_label.get(label)
            if limit is None and self._has_started[column]:
                self._watched.append((column, math.nan, math.inf))  # never starts, ends at once
            elif limit is not None and limit.is_plain:
                self._watched.append((column, limit.on, limit.off))
            elif limit is not None:
                gate = Gate(limit, marks.pop(label, Mark()), self._seen)
                self._gated.append((column, limit, gate))
        self._marks = {label: _without_hits(mark) for label, mark in marks.items()}
        self._has_reject = any(limit.reject is not None for limit in limits)
        self._limits, self.uncertain = limits, None

    def _current_marks(self) -> dict[str, Mark]:
        """Return what is known of labels, as far as there is anything."""
        gated = {self._labels[column]: gate.mark(self._seen) for column, _, gate in self._gated}
        return {label: mark for label, mark in (self._marks | gated).items() if mark != Mark()}

    def _crossed_in_one(self, smooth: np.ndarray) -> list[tuple[int, int, bool]]:
        """Return row 0, column and whether it starts, for every label that starts or ends."""
        crossed = []
        (values,), has = smooth.tolist(), self._has_started
        for column, on, off in self._watched:
            value, has_started = values[column], has[column]
            if value < off if has_started else value >= on:
                has[column] = not has_started
                crossed.append((0, column, not has_started))
        return crossed

    def _crossed_in_many(self, smooth: np.ndarray) -> list[tuple[int, int, bool]]:
        crossed: list[tuple[int, int, bool]] = []
        for column, on, off in self._watched:
            crossed += self._many_crossings(smooth[:, column], column, on, off)
        # The order within a window is the order of the labels.
        return sorted(crossed)

    def _crossed_gates(self, smooth: np.ndarray, end_ns: np.ndarray) -> list[tuple[int, int, bool]]:
        """Do the same for labels that have a gate."""
        gated = self._gated_in_one if len(smooth) == 1 else self._gated_in_many
        crossed = gated(smooth, end_ns)
        self._seen += len(smooth)
        return crossed

    def _gated_in_one(self, smooth: np.ndarray, end_ns: np.ndarray) -> list[tuple[int, int, bool]]:
        crossed = []
        (values,), has, time_ns = smooth.tolist(), self._has_started, int(end_ns[0])
        for column, _, gate in self._gated:
            has_started = has[column]
            if gate.crosses(values[column], time_ns, self._seen, has_started=has_started):
                has[column] = not has_started
                crossed.append((0, column, not has_started))
        return crossed

    def _gated_in_many(self, smooth: np.ndarray, end_ns: np.ndarray) -> list[tuple[int, int, bool]]:
        crossed: list[tuple[int, int, bool]] = []
        for column, _, gate in self._gated:
            has_started = self._has_started[column]
            found = gate.crossings(smooth[:, column], end_ns, self._seen, has_started=has_started)
            crossed += [(row, column, is_start) for row, is_start in found]
            self._has_started[column] = has_started ^ (len(found) % 2 == 1)
        return crossed

    def _many_crossings(
        self, values: np.ndarray, column: int, on: float, off: float
    ) -> list[tuple[int, int, bool]]:
        """Jump from start to end to start among the rows that could be one."""
        starts = np.flatnonzero(values >= on).tolist()
        ends = np.flatnonzero(values < off).tolist()
        crossed: list[tuple[int, int, bool]] = []
        has_started, row = self._has_started[column], 0
        while True:
            rows = ends if has_started else starts
            place = bisect.bisect_left(rows, row)
            if place == len(rows):
                break
            row = rows[place]
            has_started = not has_started
            crossed.append((row, column, has_started))
        self._has_started[column] = has_started
        return crossed

    # --- state ----------------------------------------------------------------------

    def state(self) -> DeciderState:
        """Return what must be kept to go on later as if nothing had happened."""
        history, time_ns = self._smoother.state() if self._smoother else (b"", None)
        return DeciderState(history, self.started, time_ns, self._current_marks())

    def restore(self, state: DeciderState) -> None:
        """Go on from ``state``.

        Raises:
            ModelError: It does not fit these labels or this smoothing.
        """
        named = {*state.started, *state.marks}
        is_plain = self._smoother is None and (state.history or state.smoothed_ns is not None)
        if is_plain or not named <= set(self._labels):
            raise ModelError(
                f"the snapshot has {len(state.history)} bytes of history and the labels "
                f"{sorted(named)[:8]}",
                expected=f"what the labels {list(self._labels)} and their smoothing keep",
                remedy="Start without the snapshot; labels that have started will not end.",
            )
        if self._smoother is not None:
            self._smoother.restore(state.history, state.smoothed_ns)
        self._resume(state.started, state.marks)

    def adopt(self, state: DeciderState) -> None:
        """Go on from the state of another base, as far as it fits; see `take_over`."""
        try:
            self.restore(state)
        except ModelError:
            self._resume(state.started, _all_without_hits(state.marks))

    def take_over(self, other: Decider) -> None:
        """Go on from the decider this one replaces.

        Labels that both have stay started, and stay silent as long after they ended;
        smoothing and hits go on if labels and smoothing are the same.
        """
        state = other.state()
        if (self._labels, self._smoothing) == (other._labels, other._smoothing):
            self.restore(state)
        else:
            self._resume(state.started, _all_without_hits(state.marks))

    def _resume(self, started: Sequence[str], marks: dict[str, Mark]) -> None:
        self._has_started = [label in started for label in self._labels]
        self._gated, self._marks = [], {}
        self._watch(())
        self._marks = {label: mark for label, mark in marks.items() if label in self._labels}


def _without_hits(mark: Mark) -> Mark:
    return msgspec.structs.replace(mark, hits=())


def _all_without_hits(marks: dict[str, Mark]) -> dict[str, Mark]:
    return {label: _without_hits(mark) for label, mark in marks.items()}
