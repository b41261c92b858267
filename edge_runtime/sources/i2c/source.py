"""A part on an I2C bus as a source: opening, reading, failing and closing are the same for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError, SourceError
from edge_runtime.ports import Clock, SourceHealth
from edge_runtime.sources.i2c.bus import Part
from edge_runtime.sources.i2c.readings import Timeline
from edge_runtime.sources.live import Health
from edge_runtime.spec import StreamSpec
from edge_runtime.types import ClockQuality, Frame

__all__ = ["Block", "Live", "PartSource", "Reader", "SetUp"]


class Live(NamedTuple):
    """What a reader works with; all of it outlives a failure and a new open."""

    part: Part
    clock: Clock
    health: Health
    timeline: Timeline

    def left_s(self, time_ns: int) -> float:
        """Return the time until a monotonic instant; 0 if it has passed."""
        return max(0.0, (time_ns - self.clock.monotonic_ns()) / 1e9)


class Block(NamedTuple):
    """Samples that have come, as in a `Frame`."""

    time_ns: np.ndarray
    samples: np.ndarray
    clock: ClockQuality
    step_ns: int | None
    quality: np.ndarray | None


class Reader(Protocol):
    """Reads one part that has been set up; used by one thread."""

    def read(self, deadline_ns: int) -> Block | None:
        """Return the next block; None if none comes until then, or the part is closed.

        Raises:
            SourceError: The part has failed.
        """
        ...


SetUp = Callable[[StreamSpec, Live], Reader]
"""Checks what a model needs, opens the part and sets it up."""


class PartSource:
    """Reads a part on an I2C bus.

    Delivery: live; what is missed is counted, and shows as one gap in the event times.
    That holds across a failure too: opened again, the source counts what was due
    meanwhile. Thread: one reads, any may close.

    Args:
        part: On its bus.
        set_up: Makes a reader of it, at every open.
        clock: Tells time.
    """

    def __init__(self, part: Part, set_up: SetUp, *, clock: Clock | None = None) -> None:
        clock, health = clock or SystemClock(), Health()
        self._live = Live(part, clock, health, Timeline(clock, health))
        self._set_up = set_up
        self._reader: Reader | None = None
        self._stream = ""
        self._index = 0

    @property
    def is_exhausted(self) -> bool:
        """Never: a sensor goes on."""
        return False

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Set the part up and start reading at ``need.rate_hz``.

        Raises:
            ConfigError: The part has no such channel or unit, or cannot have that rate.
            SourceError: The bus or the part does not answer, or it is another part.
        """
        self._stream, self._index = stream, index
        with self._live.part.lock:
            try:
                self._reader = self._set_up(need, self._live)
            except EdgeError:
                self._live.part.release()
                raise

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next block, or None if none came within ``timeout_s``.

        Raises:
            SourceError: The part was unplugged, has lost its settings or hangs.
        """
        deadline_ns = self._live.clock.monotonic_ns() + round(timeout_s * 1e9)
        with self._live.part.lock:
            if self._reader is None or not self._live.part.is_open:
                return None
            try:
                block = self._reader.read(deadline_ns)
            except SourceError:
                self._live.timeline.fail()
                raise
        return None if block is None else self._frame(block)

    def close(self) -> None:
        """Release the bus; safe to call twice and from another thread."""
        self._live.part.close()

    def health(self) -> SourceHealth:
        """Return what was noticed so far."""
        return self._live.health.report()

    def _frame(self, block: Block) -> Frame:
        index, self._index = self._index, self._index + len(block.samples)
        return Frame(
            self._stream,
            index,
            block.time_ns,
            block.samples,
            clock=block.clock,
            step_ns=block.step_ns,
            quality=block.quality,
        )
