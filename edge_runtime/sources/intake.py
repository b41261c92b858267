"""What sources of opened devices share: blocks become frames, and any thread may close."""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

import numpy as np

from edge_runtime.types import ClockQuality, Frame

__all__ = ["Block", "Intake", "Reader"]


class Block(NamedTuple):
    """Samples that came together; the fields are those of a `Frame`."""

    time_ns: np.ndarray
    samples: np.ndarray
    clock: ClockQuality
    step_ns: int | None = None
    quality: np.ndarray | None = None


class Reader(Protocol):
    """An open device."""

    def read(self, timeout_s: float) -> Block | None:
        """Return the next block, or None if none came within ``timeout_s``.

        Raises:
            SourceError: The device is gone.
        """
        ...

    def wake(self) -> None:
        """Make a waiting `read` return at once; callable from any thread, also when closed."""
        ...

    def close(self) -> None:
        """Release the device; called once, when no thread is inside."""
        ...


class Intake:
    """Reads frames from whatever is open: one thread reads, any may close."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: Reader | None = None
        self._stream = ""
        self._index = 0

    def open(self, reader: Reader, stream: str, index: int) -> None:
        """Go on with a device that was just opened; what was open before must be closed."""
        with self._lock:
            self._reader, self._stream, self._index = reader, stream, index

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next frame, or None if none came within ``timeout_s``.

        Raises:
            SourceError: The device is gone.
        """
        with self._lock:
            block = None if self._reader is None else self._reader.read(timeout_s)
            if block is None:
                return None
            index = self._index
            self._index += len(block.samples)
            times, samples, clock, step_ns, quality = block
            return Frame(self._stream, index, times, samples, clock, step_ns, quality)

    def close(self) -> None:
        """Wake a waiting `read` and release the device; safe to call twice."""
        reader = self._reader
        if reader is not None:
            reader.wake()
        with self._lock:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
