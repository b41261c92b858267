"""A thread that ends a model's call which takes too long, where its runtime can be told to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edge_runtime.modes.vitals import Vitals

__all__ = ["Watchdog"]

log = logging.getLogger(__name__)


class Watchdog:
    """Interrupt the call in progress once it has lasted ``limit_s``.

    The runtime's call then fails, and the stream's model is opened again. Where a
    runtime cannot be interrupted, the supervisor ends the process a little later.

    Thread: `run` is a thread of its own, which wakes up a few times per limit.

    Args:
        vitals: What the pipeline thread writes.
        limit_s: Longest time a call may take.
        interrupt: Makes the model of a stream, by its number, fail; False if it cannot.
    """

    def __init__(self, vitals: Vitals, *, limit_s: float, interrupt: Callable[[int], bool]) -> None:
        self._vitals = vitals
        self._limit_s = limit_s
        self._interrupt = interrupt
        self._stop = threading.Event()

    def run(self) -> None:
        """Watch until `stop`."""
        seen, since = (-1, -1), time.monotonic()
        while not self._stop.wait(self._limit_s / 8):
            busy = self._vitals.busy
            now = (self._vitals.beats, -1 if busy is None else busy)
            if now != seen:
                seen, since = now, time.monotonic()
            elif busy is not None and time.monotonic() - since >= self._limit_s * 7 / 8:
                is_interrupted = self._interrupt(busy)
                log.error("model.call_hangs", extra={"stream": busy, "ended": is_interrupted})
                since = time.monotonic()

    def stop(self) -> None:
        """End `run`; callable from any thread."""
        self._stop.set()
