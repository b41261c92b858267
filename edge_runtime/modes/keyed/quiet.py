"""Devices that fall silent: their time goes on until nothing of theirs waits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from edge_runtime.ports import Clock

__all__ = ["Quiet"]

_NEVER_NS = 1 << 62


class Quiet:
    """Tells which devices have been silent for so long that time must go on without them.

    Used by one thread. It remembers devices that were heard of late, and no others.

    Args:
        idle_s: After how long; None for never.
        settles_s: After so long nothing of a device waits any more.
        clock: Tells how long.
    """

    def __init__(self, idle_s: float | None, settles_s: float, clock: Clock) -> None:
        self._idle_ns = None if idle_s is None else round(idle_s * 1e9)
        self._settles_ns = settles_s * 1e9
        self._clock = clock
        # When it was heard, and when it is due: the latter in order, for all wait equally long.
        self._waiting: OrderedDict[str, tuple[int, int]] = OrderedDict()

    @property
    def next_ns(self) -> int:
        """When to ask again, monotonic."""
        return next((due_ns for _, due_ns in self._waiting.values()), _NEVER_NS)

    def note(self, key: str) -> None:
        """Samples of a device have come."""
        if self._idle_ns is not None:
            now_ns = self._clock.monotonic_ns()
            self._put(key, now_ns, now_ns + self._idle_ns)

    def due(self) -> Iterator[tuple[str, float]]:
        """Yield devices that are silent, and for how many seconds; each again until it settles."""
        now_ns = self._clock.monotonic_ns()
        while self.next_ns <= now_ns:
            key, (heard_ns, _) = self._waiting.popitem(last=False)
            if now_ns - heard_ns < self._settles_ns and self._idle_ns is not None:
                self._put(key, heard_ns, now_ns + self._idle_ns)
            yield key, (now_ns - heard_ns) / 1e9

    def _put(self, key: str, heard_ns: int, due_ns: int) -> None:
        self._waiting[key] = heard_ns, due_ns
        self._waiting.move_to_end(key)
