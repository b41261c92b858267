"""What the other threads bring to the pipeline thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items from many threads to one, in order of arrival.

    The one thread takes all that waits at once: a switch of threads for every
    item would cost more than many an item. When full, whoever puts waits (``block``).

    Attributes:
        limit: Items that may wait; as many again may be in the hands of the one thread,
            which may change it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: deque[T] = deque()
        self._taken: deque[T] = deque()
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._has_room = threading.Condition(lock)
        self._is_awaited = False

    # --- any thread -------------------------------------------------------------

    def put(self, item: T, timeout_s: float) -> bool:
        """Add an item; False if there was no room within ``timeout_s``."""
        with self._has_room:
            if len(self._waiting) >= self.limit and not self._has_room.wait_for(
                lambda: len(self._waiting) < self.limit, timeout_s
            ):
                return False
            self._waiting.append(item)
            if self._is_awaited:
                self._arrived.notify()
            return True

    def __len__(self) -> int:
        return len(self._taken) + len(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._taken or self._waiting)

    # --- the one thread -----------------------------------------------------------

    def get(self, timeout_s: float) -> T | None:
        """Return what waits longest; None if nothing comes within ``timeout_s``."""
        if not self._taken:
            self._take(timeout_s)
        return self._taken.popleft() if self._taken else None

    def put_back(self, item: T) -> None:
        """Make the item that was got last the next one again."""
        self._taken.appendleft(item)

    def _take(self, timeout_s: float) -> None:
        with self._arrived:
            if not self._waiting and timeout_s > 0:
                self._is_awaited = True
                self._arrived.wait_for(lambda: self._waiting, timeout_s)
                self._is_awaited = False
            self._taken, self._waiting = self._waiting, self._taken
            self._has_room.notify_all()
