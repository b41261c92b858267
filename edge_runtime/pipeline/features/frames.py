"""Frames inside windows, each computed once where windows share it."""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np

from edge_runtime.pipeline.features.feature import Feature, Order
from edge_runtime.pipeline.features.raw import to_peak_one

__all__ = ["FRAMES_AT_ONCE", "FrameTable", "Framed", "Framing"]

FRAMES_AT_ONCE = 64
"""A table is asked for at most so many frames at once: they stay in the cache."""


_EXACT = frozenset(map(np.dtype, ("float32", "float16", "int8", "uint8", "int16", "uint16")))


class Framing(msgspec.Struct, frozen=True):
    """How frames lie in a window.

    Attributes:
        length: Samples of a frame.
        step: Samples from one frame to the next.
        lead: Samples before a frame that it needs as well.
        is_to_peak: Whether the window is scaled to peak 1 first.
    """

    length: int
    step: int
    lead: int = 0
    is_to_peak: bool = False

    def count(self, samples: int) -> int:
        """Return how many frames a window of so many samples has, below 1 if too short."""
        return (samples - self.lead - self.length) // self.step + 1

    def new(self, samples: int, hop: int | None) -> int:
        """Return how many of these frames the window one hop earlier does not have."""
        count = self.count(samples)
        if hop is None or hop % self.step or self.is_to_peak:
            return count
        return min(count, hop // self.step)


class FrameTable(Protocol):
    """Makes ``width`` numbers of one frame."""

    width: int

    def fill(self, frames: np.ndarray, rows: np.ndarray) -> None:
        """Write the numbers of up to `FRAMES_AT_ONCE` frames into (m, width).

        Args:
            frames: Shape (m, lead + length), numbers that float32 holds exactly.
            rows: Where to write, float32.
        """
        ...

    def fork(self) -> FrameTable:
        """Return one that shares the tables, with room of its own to compute in."""
        ...


class Framed:
    """A feature of shape (frames, width) that keeps the last window's frames.

    Every frame is computed by itself, so a kept one has the bytes of a new one.

    Args:
        table: Makes the numbers of a frame.
        framing: How frames lie in a window.
        count: Frames of a window.
        new: How many of them the window one hop earlier does not have.
    """

    is_stateful = False
    is_quiet = False

    def __init__(self, table: FrameTable, framing: Framing, *, count: int, new: int) -> None:
        self._table = table
        self._framing = framing
        self._count = count
        self._new = new
        self._kept = count - new
        self._recent: np.ndarray | None = None

    def fork(self) -> Feature:
        """Return one that shares the tables and has seen nothing."""
        return Framed(self._table.fork(), self._framing, count=self._count, new=self._new)

    def __call__(self, windows: np.ndarray, order: Order, /) -> np.ndarray:
        """Return float32 (n, frames, width) of windows (n, length, 1)."""
        if not self._kept or order is Order.SEPARATE or not len(windows):
            rows = np.empty((len(windows), self._count, self._table.width), np.float32)
            self._fill(windows, 0, rows.reshape(-1, self._table.width))
        else:
            rows = self._of_stretch(windows, order)
        if self._kept and len(rows):
            self._recent = rows[-1].copy()  # not a view: the block may be large
        return rows

    def _of_stretch(self, windows: np.ndarray, order: Order) -> np.ndarray:
        """Compute the new frames of windows that follow each other, and only these."""
        count, new, kept = self._count, self._new, self._kept
        stretch = np.empty((count + (len(windows) - 1) * new, self._table.width), np.float32)
        if order is Order.FOLLOWS and self._recent is not None:
            stretch[:kept] = self._recent[new:]
            self._fill(windows, kept, stretch[kept:])
        else:
            self._fill(windows[:1], 0, stretch[:count])
            self._fill(windows[1:], kept, stretch[count:])
        if len(windows) == 1:
            return stretch[None]
        row, item = stretch.strides
        shape = (len(windows), count, self._table.width)
        every = np.lib.stride_tricks.as_strided(stretch, shape, (new * row, row, item))
        return np.ascontiguousarray(every)

    def _fill(self, windows: np.ndarray, first: int, rows: np.ndarray) -> None:
        """Write frames ``first`` and later of every window into ``rows``, one after the other."""
        count = self._count - first
        if not len(windows):
            return
        if len(windows) * count <= FRAMES_AT_ONCE:
            self._table.fill(self._frames(self._samples(windows, first), count), rows)
            return
        # Whole windows, as many as fill a block; a long one alone.
        together = max(1, FRAMES_AT_ONCE // count)
        for number in range(0, len(windows), together):
            samples = self._samples(windows[number : number + together], first)
            self._fill_blocks(self._frames(samples, count), rows[number * count :])

    def _fill_blocks(self, frames: np.ndarray, rows: np.ndarray) -> None:
        for begin in range(0, len(frames), FRAMES_AT_ONCE):
            part = frames[begin : begin + FRAMES_AT_ONCE]
            self._table.fill(part, rows[begin : begin + len(part)])

    def _samples(self, windows: np.ndarray, first: int) -> np.ndarray:
        """Return samples from a frame on, (n, …), of a type that float32 holds exactly."""
        framing = self._framing
        if framing.is_to_peak:
            windows = to_peak_one(windows.astype(np.float32, copy=False))
        samples = windows[:, first * framing.step :, 0]
        return samples if samples.dtype in _EXACT else samples.astype(np.float32)

    def _frames(self, samples: np.ndarray, count: int) -> np.ndarray:
        """Return the first ``count`` frames of every row, shape (n * count, lead + length)."""
        length = self._framing.lead + self._framing.length
        if count == 1:
            return samples[:, :length]
        along, item = samples.strides
        strides = (along, self._framing.step * item, item)
        frames = np.lib.stride_tricks.as_strided(samples, (len(samples), count, length), strides)
        return frames.reshape(-1, length)
