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
        self._seen: tuple[int, int | None] | None = None
        self._since = 0.0

    def run(self) -> None:
        """Watch until `stop`."""
        while not self._stop.wait(self._limit_s / 8):
            self.check(time.monotonic())

    def check(self, now_s: float) -> None:
        """Look at the call in progress, and end it if it is still the one of long ago.

        Args:
            now_s: Monotonic time.
        """
        seen = (self._vitals.beats, self._vitals.busy)
        if seen != self._seen:
            self._seen, self._since = seen, now_s
        elif seen[1] is not None and now_s - self._since >= self._limit_s:
            # Once more after another limit, should the runtime not have listened.
            self._since = now_s
            is_interrupted = self._interrupt(seen[1])
            log.error("model.call_hangs", extra={"stream": seen[1], "ended": is_interrupted})

    def stop(self) -> None:
        """End `run`; callable from any thread."""
        self._stop.set()
