"""The queue between a transport's thread and whoever receives."""

from __future__ import annotations

import threading
from collections import deque

from edge_runtime.ports import TransportEvent

__all__ = ["Mailbox"]


class Mailbox:
    """Events in order of arrival, handed out one by one.

    Bounded by its writer: whoever fills it looks at ``is_full`` first and
    holds back (``block``). A state change of the link is always taken.

    Args:
        limit: Events from which on it is full.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[tuple[TransportEvent, int]] = deque()
        self._changed = threading.Condition()
        self._is_woken = False

    @property
    def is_full(self) -> bool:
        """Whether the writer should hold back."""
        return len(self._events) >= self._limit

    def put(self, event: TransportEvent, token: int = 0) -> None:
        """Add one event; ``token`` comes back with it."""
        with self._changed:
            self._events.append((event, token))
            self._changed.notify()

    def get(self, timeout_s: float) -> tuple[TransportEvent, int] | None:
        """Return the next event and its token, or None after ``timeout_s`` or a wake."""
        with self._changed:
            self._changed.wait_for(self._is_ready, max(timeout_s, 0.0))
            self._is_woken = False
            return self._events.popleft() if self._events else None

    def wake(self) -> None:
        """Let one ``get`` return at once, now or when it comes."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def _is_ready(self) -> bool:
        return bool(self._events) or self._is_woken
