"""A budget of bytes a day, for links that cost by the byte."""

from __future__ import annotations

import msgspec

from edge_runtime.ports import Clock
from edge_runtime.sync.state import StateStore

__all__ = ["DayBudget", "packet_bytes"]

DAY_NS = 86_400 * 10**9
_KEY = "sync/day"
# Of the budget: what only decisions may spend, and what one write to the disk covers.
_RESERVE = 0.25
_STEP = 1 / 64
# Fixed header, length of the topic, packet id and an empty property list.
_PACKET_BYTES = 10


class _Spent(msgspec.Struct):
    """What is on the disk.

    Attributes:
        day: Days since the Unix epoch, UTC.
        into_ns: How far that day has come.
        bytes: Spent in it, rounded up.
    """

    day: int
    into_ns: int
    bytes: int


class DayBudget:
    """How many bytes may still be sent and received today.

    A day is one of UTC. The wall clock is read once, at the start, and monotonic time
    goes on from there: a clock that is set meanwhile gives nothing and takes nothing.
    At a start the wall clock may only move the day on, so that a clock that comes up
    in 1970 goes on with the remainder of the last day.
    What is spent is on the disk before it is sent, in steps of a 64th of the budget: a
    power cut costs at most one step and never gives bytes back.

    Args:
        bytes_per_day: The budget; None for no limit, and then nothing is written.
        state: Keeps the remainder.
        clock: Tells the day.
    """

    def __init__(self, bytes_per_day: int | None, state: StateStore, clock: Clock) -> None:
        self._limit = bytes_per_day
        self._state = state
        self._clock = clock
        self._step = max(1, round((bytes_per_day or 0) * _STEP))
        self._spent = self._begun()
        self._since_ns = clock.monotonic_ns()
        self._on_disk = self._spent.bytes

    @property
    def is_metered(self) -> bool:
        """Whether there is a budget at all."""
        return self._limit is not None

    @property
    def left_bytes(self) -> int | None:
        """Bytes left today, not negative; None without a budget."""
        if self._limit is None:
            return None
        self._move_on()
        return max(0, self._limit - self._spent.bytes)

    def allows(self, size: int, *, is_urgent: bool) -> bool:
        """Whether ``size`` bytes may go now; a quarter is kept for what is urgent."""
        if self._limit is None:
            return True
        self._move_on()
        most = self._limit if is_urgent else self._limit * (1 - _RESERVE)
        return self._spent.bytes + size <= most

    def spend(self, size: int) -> None:
        """Note bytes that are sent, or have come."""
        if self._limit is None:
            return
        self._move_on()
        self._spent.bytes += size
        if self._spent.bytes > self._on_disk:
            self._on_disk = self._spent.bytes + self._step
            self._save(self._on_disk)

    def renews_in_ns(self) -> int:
        """Return how long until the next day."""
        return DAY_NS - self._into_ns()

    def close(self) -> None:
        """Store what was really spent."""
        if self._limit is not None:
            self._move_on()
            self._save(self._spent.bytes)

    def _begun(self) -> _Spent:
        day, into_ns = divmod(self._clock.now_ns(), DAY_NS)
        stored = None if self._limit is None else self._state.get(_KEY, _Spent)
        if stored is None or day > stored.day:
            return _Spent(day, into_ns, 0)
        if day == stored.day:
            stored.into_ns = max(into_ns, stored.into_ns)
        return stored

    def _into_ns(self) -> int:
        return self._spent.into_ns + self._clock.monotonic_ns() - self._since_ns

    def _move_on(self) -> None:
        days, into_ns = divmod(self._into_ns(), DAY_NS)
        if days:
            self._spent = _Spent(self._spent.day + days, into_ns, 0)
            self._since_ns = self._clock.monotonic_ns()
            self._on_disk = 0
            self._save(0)

    def _save(self, size: int) -> None:
        self._state.set(_KEY, _Spent(self._spent.day, self._into_ns(), size))


def packet_bytes(topic: str, payload: bytes) -> int:
    """Return what a message takes on the wire, without TCP and TLS."""
    return len(topic) + len(payload) + _PACKET_BYTES
