"""Smoothing and hysteresis: values to starts and ends."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.spec import Limit, ModelSpec
from edge_runtime.types import Decision

__all__ = ["Decider", "DeciderState"]


class DeciderState(msgspec.Struct, frozen=True):
    """What a `Decider` must remember between two windows.

    Attributes:
        history: Values of the last windows, oldest first, float64, C order.
        started: Labels that have started and not ended.
    """

    history: bytes
    started: tuple[str, ...]


class Decider:
    """Turns the values of one stream into decisions; used by one thread.

    A label starts when the mean of its last ``smoothing.windows`` values reaches
    ``on`` and ends when it falls below ``off``. Until there are that many values
    nothing is decided. A started label that has no limit any more ends with the
    next window. A value that is not a number starts and ends nothing.

    Args:
        spec: Labels, smoothing and the name of the model line.
        stream: Name of the stream.
    """

    def __init__(self, spec: ModelSpec, stream: str) -> None:
        self._labels = spec.labels
        self._model = spec.name
        self._stream = stream
        self._count = spec.smoothing.windows
        self._history: list[list[float]] = []
        self._no_values = np.empty((0, len(spec.labels)))
        self._has_started = [False] * len(spec.labels)
        self._limits: tuple[Limit, ...] = ()
        self._watched: list[tuple[int, float, float]] = []

    @property
    def started(self) -> tuple[str, ...]:
        """Labels that have started and not ended."""
        return tuple(
            label for label, has in zip(self._labels, self._has_started, strict=True) if has
        )

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
        smooth, first = self._smoothed(values) if self._count > 1 else (values, 0)
        if limits is not self._limits:
            self._watch(limits)
        count = len(smooth)
        if not self._watched or not count:
            return ()
        crossed = self._crossed_in_one(smooth) if count == 1 else self._crossed_in_many(smooth)
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

    def _smoothed(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """Return means of the last k values, and the row of the first mean.

        Each mean adds its own k values, oldest first: a running sum would depend
        on how the windows came in.
        """
        if len(values) == 1:
            return self._smoothed_one(values[0].tolist())
        known = np.concatenate((self._history_rows(), values))
        self._history = known[max(0, len(known) - self._count + 1) :].tolist()
        count = max(0, len(known) - self._count + 1)
        total = known[:count].copy()
        for late in range(1, self._count):
            total += known[late : late + count]
        total /= self._count
        return total, len(values) - count

    def _smoothed_one(self, value: list[float]) -> tuple[np.ndarray, int]:
        """Do the same for one window in plain floats, whose sums round alike."""
        known = [*self._history, value]
        if len(known) < self._count:
            self._history = known
            return self._no_values, 1
        self._history = known[1:]
        total = known[0]
        for row in known[1:]:
            total = [sofar + one for sofar, one in zip(total, row, strict=True)]
        return np.array([[one / self._count for one in total]]), 0

    def _history_rows(self) -> np.ndarray:
        return np.array(self._history, np.float64).reshape(-1, len(self._labels))

    def _watch(self, limits: tuple[Limit, ...]) -> None:
        """Choose the labels to look at: those with a limit, and those still started."""
        by_label = {limit.label: (limit.on, limit.off) for limit in limits}
        orphaned = (math.nan, math.inf)  # never starts, ends at once
        self._watched = [
            (column, *by_label.get(label, orphaned))
            for column, label in enumerate(self._labels)
            if label in by_label or self._has_started[column]
        ]
        self._limits = limits

    def _crossed_in_one(self, smooth: np.ndarray) -> list[tuple[int, int, bool]]:
        """Return row 0, column and whether it starts, for every label that starts or ends."""
        crossed = []
        for column, on, off in self._watched:
            value = smooth.item(0, column)
            has_started = self._has_started[column]
            if value < off if has_started else value >= on:
                self._has_started[column] = not has_started
                crossed.append((0, column, not has_started))
        return crossed

    def _crossed_in_many(self, smooth: np.ndarray) -> list[tuple[int, int, bool]]:
        crossed: list[tuple[int, int, bool]] = []
        for column, on, off in self._watched:
            crossed += self._many_crossings(smooth[:, column], column, on, off)
        # The order within a window is the order of the labels.
        return sorted(crossed)

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
        return DeciderState(self._history_rows().tobytes(), self.started)

    def restore(self, state: DeciderState) -> None:
        """Go on from ``state``.

        Raises:
            ModelError: It does not fit these labels or this smoothing.
        """
        labels = len(self._labels)
        rows, rest = divmod(len(state.history), labels * 8)
        if rest or rows >= self._count or not set(state.started) <= set(self._labels):
            raise ModelError(
                f"the snapshot has {len(state.history)} bytes of history and the started labels "
                f"{list(state.started[:8])}",
                expected=f"fewer than {self._count} values of the labels {list(self._labels)}",
                remedy="Start without the snapshot; labels that have started will not end.",
            )
        self._history = np.frombuffer(state.history).reshape(rows, labels).tolist()
        self._set_started(state.started)

    def adopt(self, state: DeciderState) -> None:
        """Go on from the state of another base, as far as it fits; see `take_over`."""
        try:
            self.restore(state)
        except ModelError:
            self._set_started(state.started)

    def take_over(self, other: Decider) -> None:
        """Go on from the decider this one replaces.

        Labels that both have stay started; the history goes on if labels and
        smoothing are the same.
        """
        if (self._labels, self._count) == (other._labels, other._count):
            self._history = list(other._history)
        self._set_started(other.started)

    def _set_started(self, labels: Sequence[str]) -> None:
        self._has_started = [label in labels for label in self._labels]
        self._limits, self._watched = (), []
        if any(self._has_started):
            self._watch(())
