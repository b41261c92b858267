"""One event clock for a whole fleet, and what a device's own clock makes of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["DeviceClock", "World"]


class World:
    """True time, and what is to happen in it; used by one thread.

    What is due at the same instant happens in the order in which it was asked for.

    Args:
        start_ns: True time at the beginning, ns since the Unix epoch, UTC.

    Attributes:
        elapsed_ns: How long the simulation has lasted.
    """

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.elapsed_ns = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._asked = 0

    def at(self, elapsed_ns: int, do: Callable[[], None]) -> None:
        """Have something done so long after the start, or now if that is over."""
        self._asked += 1
        heapq.heappush(self._due, (max(elapsed_ns, self.elapsed_ns), self._asked, do))

    @property
    def next_ns(self) -> int | None:
        """When something is due next; None if nothing is."""
        return self._due[0][0] if self._due else None

    def step(self) -> None:
        """Go to what is due next, and do it."""
        self.elapsed_ns, _, do = heapq.heappop(self._due)
        do()


class DeviceClock:
    """A device's `Clock`: monotonic since it was switched on, and a wall clock that may be wrong.

    Attributes:
        offset_ns: How far the wall clock is ahead of true time.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._boot_ns = world.elapsed_ns
        self.offset_ns = 0

    def boot(self, *, is_set: bool) -> None:
        """Start again; a wall clock that is not set begins at 1970."""
        self._boot_ns = self._world.elapsed_ns
        if not is_set:
            self.offset_ns = -self._true_ns

    def now_ns(self) -> int:
        """Wall time as the device sees it, ns since the Unix epoch, UTC."""
        return self._true_ns + self.offset_ns

    def monotonic_ns(self) -> int:
        """Time since the device was switched on, ns."""
        return self._world.elapsed_ns - self._boot_ns

    def elapsed_ns(self, monotonic_ns: int) -> int:
        """Return when, from the start of the simulation, the monotonic clock shows this."""
        return self._boot_ns + monotonic_ns

    @property
    def _true_ns(self) -> int:
        return self._world.start_ns + self._world.elapsed_ns
