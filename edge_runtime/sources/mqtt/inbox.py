"""What the network thread hands to the thread that reads the source."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import NamedTuple

from edge_runtime.errors import SourceError
from edge_runtime.sources.live import Health

__all__ = ["Arrival", "Inbox"]


class Arrival(NamedTuple):
    """One message.

    Attributes:
        topic: Where it was published.
        payload: Its bytes.
        time_ns: When it came, monotonic.
    """

    topic: str
    payload: bytes
    time_ns: int


class Inbox:
    """Messages in order of arrival; when full, the oldest gives way (``drop_oldest``).

    Thread: one puts, notes and fails; one takes; any closes.

    Args:
        limit: Messages that may wait.
        health: Told what was noted, by the thread that takes.
    """

    def __init__(self, limit: int, health: Health) -> None:
        self._limit = limit
        self._health = health
        self._arrivals: deque[Arrival] = deque()
        self._noted: Counter[str] = Counter()
        self._error: SourceError | None = None
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, arrival: Arrival) -> None:
        """Add a message."""
        with self._changed:
            if len(self._arrivals) == self._limit:
                self._arrivals.popleft()
                self._noted["queue_full"] += 1
            self._arrivals.append(arrival)
            self._changed.notify()

    def note(self, reason: str) -> None:
        """Count something that is wrong."""
        with self._changed:
            self._noted[reason] += 1

    def fail(self, error: SourceError) -> None:
        """Let this and every later `take` raise ``error``."""
        with self._changed:
            self._error = error
            self._changed.notify()

    def close(self) -> None:
        """Make a waiting `take` return."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Arrival]:
        """Return every message that waits, as soon as there is one; none after ``timeout_s``.

        Raises:
            SourceError: The network thread gave up.
        """
        with self._changed:
            self._changed.wait_for(self._is_ready, timeout_s)
            arrivals = list(self._arrivals)
            self._arrivals.clear()
            noted, self._noted = self._noted, Counter()
            error = None if self._is_closed else self._error
        for reason, count in noted.items():
            self._health.fault(reason, count)
        if error is not None:
            raise error
        return arrivals

    def _is_ready(self) -> bool:
        return bool(self._arrivals) or self._is_closed or self._error is not None
