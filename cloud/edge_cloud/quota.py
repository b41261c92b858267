"""How much one device may send: acknowledgements wait while it is over its quota."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from edge_cloud.config import IngestConfig
from edge_runtime.ports import Clock
from edge_runtime.sync.messages import Ack

__all__ = ["Quotas"]

_DEVICES = 100_000
_DAY_S = 86_400
_BURST_S = 10


class _Bucket:
    """Tokens that come at a steady rate; it may go below nothing, and then one waits."""

    def __init__(self, per_s: float, most: float, now_ns: int) -> None:
        self._per_s = per_s
        self._most = most
        self._left = most
        self._at_ns = now_ns

    def take(self, count: int, now_ns: int) -> None:
        """Spend tokens that may not be there yet."""
        earned = self._per_s * (now_ns - self._at_ns) / 1e9
        self._left = min(self._most, self._left + earned) - count
        self._at_ns = now_ns

    def whole_at_ns(self) -> int:
        """Return when the debt is paid."""
        return self._at_ns + int(max(0.0, -self._left) / self._per_s * 1e9)


class _Held(msgspec.Struct):
    """Acknowledgements of one device that wait."""

    due_ns: int
    acks: dict[tuple[int, int, str], Ack]


class Quotas:
    """Keep back the acknowledgements of devices that send more than they may.

    Nothing is refused and nothing is lost: the rows are stored, and a device that hears
    nothing sends no more than its window of frames. What is counted starts anew with
    the process; each of several ingesters allows its share.

    Args:
        config: The quotas; none by default.
        clock: Monotonic time.

    Attributes:
        delayed: Devices whose acknowledgements wait.
    """

    def __init__(self, config: IngestConfig, clock: Clock) -> None:
        self._rows_per_s = _share(config.rows_per_s, config.processes)
        self._bytes_per_day = _share(config.bytes_per_day, config.processes)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[_Bucket | None, _Bucket | None]] = OrderedDict()
        self._held: dict[str, _Held] = {}

    @property
    def delayed(self) -> frozenset[str]:
        """Devices whose acknowledgements wait."""
        return frozenset(self._held)

    def take(self, device: str, rows: int, size: int) -> None:
        """Count what a device sent and what was new in it."""
        now_ns = self._clock.monotonic_ns()
        counted_rows, counted_bytes = self._of(device)
        if counted_rows is not None:
            counted_rows.take(rows, now_ns)
        if counted_bytes is not None:
            counted_bytes.take(size, now_ns)

    def pass_on(self, ack: Ack) -> Ack | None:
        """Return an acknowledgement that may go now; one that may not is kept for `due`."""
        due_ns = max((one.whole_at_ns() for one in self._of(ack.device) if one), default=0)
        if due_ns <= self._clock.monotonic_ns():
            return ack
        held = self._held.setdefault(ack.device, _Held(due_ns, {}))
        held.due_ns = due_ns
        held.acks[(ack.incarnation, ack.epoch, ack.stream)] = ack
        return None

    def due(self) -> list[Ack]:
        """Return the acknowledgements that have waited long enough."""
        now_ns = self._clock.monotonic_ns()
        ready = [device for device, held in self._held.items() if held.due_ns <= now_ns]
        return [ack for device in ready for ack in self._held.pop(device).acks.values()]

    def due_in_s(self) -> float:
        """Return how long until the next acknowledgement has waited long enough."""
        now_ns = self._clock.monotonic_ns()
        due_ns = min((held.due_ns for held in self._held.values()), default=None)
        return float("inf") if due_ns is None else max(0, due_ns - now_ns) / 1e9

    def _of(self, device: str) -> tuple[_Bucket | None, _Bucket | None]:
        found = self._buckets.get(device)
        if found is None:
            if len(self._buckets) >= _DEVICES:
                self._buckets.popitem(last=False)
            found = self._buckets[device] = self._made()
        return found

    def _made(self) -> tuple[_Bucket | None, _Bucket | None]:
        now_ns = self._clock.monotonic_ns()
        rows, size = self._rows_per_s, self._bytes_per_day
        return (
            None if rows is None else _Bucket(rows, rows * _BURST_S, now_ns),
            None if size is None else _Bucket(size / _DAY_S, size, now_ns),
        )


def _share(quota: float | None, processes: int) -> float | None:
    return None if quota is None else quota / processes
