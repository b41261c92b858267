"""Streams that fall silent: their time goes on all the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.ports import Clock

__all__ = ["Idling"]

_NEVER_NS = 1 << 62


class Idling:
    """Tells when a stream has been silent for as long as its configuration allows.

    Thread: the pipeline thread only.

    Args:
        streams: By name; filled before the first frame comes.
        clock: Tells how long.

    Attributes:
        next_ns: When to ask again, monotonic.
    """

    def __init__(self, streams: Mapping[str, StreamUpdates], clock: Clock) -> None:
        self._streams = streams
        self._clock = clock
        self._heard_ns: dict[str, int] = {}
        self._due_ns: dict[str, int] = {}
        self.next_ns = _NEVER_NS

    def note(self, stream: str) -> None:
        """A frame has come."""
        idle_s = self._streams[stream].serving.idle_s
        if idle_s is None:
            return
        now_ns = self._clock.monotonic_ns()
        self._heard_ns[stream] = now_ns
        self._due_ns[stream] = now_ns + round(idle_s * 1e9)
        self.next_ns = min(self._due_ns.values())

    def due(self) -> Iterator[tuple[str, float]]:
        """Yield streams that are silent, and for how many seconds; each again after its bound."""
        now_ns = self._clock.monotonic_ns()
        if now_ns < self.next_ns:
            return
        for stream in [name for name, due_ns in self._due_ns.items() if due_ns <= now_ns]:
            idle_s = self._streams[stream].serving.idle_s
            self._due_ns[stream] = _NEVER_NS if idle_s is None else now_ns + round(idle_s * 1e9)
            yield stream, (now_ns - self._heard_ns[stream]) / 1e9
        self.next_ns = min(self._due_ns.values())
