"""What live sources around a part share: waits that another thread ends, and silence."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from edge_runtime.errors import SourceError
from edge_runtime.ports import Clock

__all__ = ["Handover", "Holder", "Part", "Silence", "Waker"]


class Part(Protocol):
    """An open device; used by one thread, but for `wake`."""

    def wake(self) -> None:
        """End this wait and every one after it; callable from any thread."""
        ...

    def close(self) -> None:
        """Give the device back; safe to call twice."""
        ...


T = TypeVar("T")
P = TypeVar("P", bound=Part)


class Holder(Generic[P]):
    """Holds the open part of a source: its thread uses it, any thread may close it."""

    def __init__(self) -> None:
        self._using = threading.Lock()
        self._part: P | None = None

    def open(self, make: Callable[[], P]) -> None:
        """Hold what ``make`` opens; what was held before is closed first."""
        self.close()
        with self._using:
            self._part = make()

    @contextmanager
    def use(self) -> Iterator[P | None]:
        """Give the part for the time of a ``with``, in which nobody closes it; None if closed."""
        with self._using:
            yield self._part

    def close(self) -> None:
        """Wake whoever waits for the part, and close it once it is out of use."""
        part = self._part
        if part is not None:
            part.wake()
        with self._using:
            part, self._part = self._part, None
            if part is not None:
                part.close()


class Silence:
    """Notices that a part which should deliver all the time does not.

    Args:
        clock: Tells time.
        limit_ns: Longest silence.
        where: The part, for the message.
    """

    def __init__(self, clock: Clock, limit_ns: int, where: str) -> None:
        self._clock = clock
        self._limit_ns = limit_ns
        self._where = where
        self._last_ns = clock.monotonic_ns()

    def end(self) -> None:
        """Something has come."""
        self._last_ns = self._clock.monotonic_ns()

    def check(self) -> None:
        """Look whether nothing has come for too long.

        Raises:
            SourceError: That is so.
        """
        silent_ns = self._clock.monotonic_ns() - self._last_ns
        if silent_ns > self._limit_ns:
            raise SourceError(
                f"nothing has come for {silent_ns / 1e9:.1f} s",
                where=self._where,
                expected="samples without a pause",
                remedy="It is opened again; if that does not help, unplug it and plug it in.",
            )


class Waker:
    """Waits for file descriptors; one thread waits, any may end the wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader, self._writer = os.pipe()
        self._is_open = True

    def wait(self, descriptors: Sequence[int], timeout_s: float) -> frozenset[int]:
        """Return those that can be read or have failed; none after a time-out or `wake`."""
        poll = select.poll()
        for descriptor in (self._reader, *descriptors):
            poll.register(descriptor, select.POLLIN | select.POLLPRI)
        ready = frozenset(descriptor for descriptor, _ in poll.poll(max(0.0, timeout_s) * 1e3))
        return frozenset() if self._reader in ready else ready

    def wake(self) -> None:
        """End this wait and every one after it; safe from any thread, also when closed."""
        with self._lock:
            if self._is_open:
                os.write(self._writer, b"\0")

    def close(self) -> None:
        """Release what waiting needs, once nobody waits any more; safe to call twice."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._reader)
                os.close(self._writer)


class Handover(Generic[T]):
    """Takes items from a library's thread to the source's.

    Bounded; when it is full, what comes is left out (policy: drop_newest).

    Args:
        most: Items that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_woken = False

    def put(self, item: T) -> bool:
        """Hand over an item without waiting; False if there was no room."""
        with self._changed:
            if len(self._items) >= self._most:
                return False
            self._items.append(item)
            self._changed.notify()
            return True

    def take(self, timeout_s: float) -> T | None:
        """Return the oldest item; None after a time-out or `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._is_woken, max(0.0, timeout_s))
            return self._items.popleft() if self._items and not self._is_woken else None

    def wake(self) -> None:
        """End this wait and every one after it; safe from any thread."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()
