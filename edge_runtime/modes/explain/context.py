"""The raw samples around a window, as they came."""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np

from edge_runtime.pipeline import AnyPipeline, TimedPipeline, Trace
from edge_runtime.spec import ModelSpec
from edge_runtime.types import Frame

__all__ = ["Context", "Signal"]

_WINDOWS = 3
_LEAST = 48


class Signal(msgspec.Struct, frozen=True, eq=False):
    """Raw samples up to a window's last.

    Attributes:
        samples: Shape (n, channels).
        places: Of each sample on the axis of the stream's index, shape (n,), float64,
            growing; on a grid also between two slots.
        box: First and last place of the window.
    """

    samples: np.ndarray
    places: np.ndarray
    box: tuple[float, float]


class Context:
    """Keeps the raw samples that may lie around one window.

    Args:
        index: Of the window's last sample.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._frames: deque[Frame] = deque()
        self._has_grid = False

    def add(self, frame: Frame, pipeline: AnyPipeline | None) -> None:
        """Take the next frame, and the pipeline that has taken it."""
        self._frames.append(frame)
        self._has_grid = isinstance(pipeline, TimedPipeline)
        if pipeline is not None and not self._has_grid:
            self._forget(_wanted(pipeline.spec))

    def _forget(self, wanted: int) -> None:
        """Let go of samples too far before the window, or behind it."""
        if self._frames[-1].index > self._index:
            self._frames.pop()
        while self._frames and self._frames[0].index + len(self._frames[0]) <= self._far(wanted):
            self._frames.popleft()

    def _far(self, wanted: int) -> int:
        last = self._frames[-1]
        return min(self._index + 1, last.index + len(last)) - wanted

    def signal(self, trace: Trace, spec: ModelSpec) -> Signal:
        """Return what lies around a window."""
        none = np.empty((0, trace.samples.shape[1]), trace.samples.dtype)
        samples = np.concatenate([none, *(frame.samples for frame in self._frames)])
        if self._has_grid:
            places, begin = self._places_on_grid(trace, spec)
        else:
            places, begin = self._places(), trace.index - spec.window.length + 1.0
        wanted = _wanted(spec)
        is_near = (places > trace.index - wanted) & (places < trace.index + 1)
        near = np.flatnonzero(is_near)[np.argsort(places[is_near], kind="stable")]
        first = float(places[near[0]]) if len(near) else begin
        return Signal(samples[near], places[near], (max(begin, first), float(trace.index)))

    def _places(self) -> np.ndarray:
        """Return the index of each sample."""
        parts = [np.arange(one.index, one.index + len(one), dtype=float) for one in self._frames]
        return np.concatenate([np.empty(0), *parts])

    def _places_on_grid(self, trace: Trace, spec: ModelSpec) -> tuple[np.ndarray, float]:
        """Return where each sample lies between the slots, and where the window begins."""
        period_ns = spec.stream.period_ns
        times = (frame.time_ns for frame in self._frames)
        time_ns = np.concatenate([np.empty(0, np.int64), *times])
        # In floats no wild stamp overflows.
        places = trace.index + (time_ns - np.float64(trace.end_ns)) / period_ns
        return places, trace.index + (trace.start_ns - trace.end_ns) / period_ns


def _wanted(spec: ModelSpec) -> int:
    return max(_LEAST, _WINDOWS * spec.window.length)
