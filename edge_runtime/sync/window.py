"""Which frames are on their way, and when to stop believing in them."""

from __future__ import annotations

from collections import deque

import msgspec

from edge_runtime.sync.blocks import Key

__all__ = ["Window"]

_FIRST_TIMEOUT_NS = 5 * 10**9
_SHORTEST_NS = 10**9
_LONGEST_NS = 60 * 10**9
_PATIENCE = 3
_JITTER = 0.25
_FEWEST = 4


class _Sent(msgspec.Struct, frozen=True):
    key: Key
    upto: int
    sent_ns: int
    is_first_time: bool


class Window:
    """Frames without the cloud's acknowledgement, in the order they were sent.

    The time-out is three round trips, smoothed as TCP does it (RFC 6298), and
    doubles each time it strikes. Frames sent twice tell nothing about the
    round trip (Karn's rule).
    """

    def __init__(self) -> None:
        self._sent: deque[_Sent] = deque()
        self._highest: dict[Key, int] = {}
        self._smooth_ns: float | None = None
        self._spread_ns = 0.0
        self._strikes = 0
        self._jitter = 0.0

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, key: Key, upto: int, now_ns: int) -> None:
        """Note that rows of ``key`` below ``upto`` were sent."""
        is_first_time = upto > self._highest.get(key, -1)
        if is_first_time:
            self._highest[key] = upto
        self._sent.append(_Sent(key, upto, now_ns, is_first_time))

    def has(self, key: Key) -> bool:
        """Whether rows of ``key`` are on their way."""
        return any(sent.key == key for sent in self._sent)

    def highest(self, key: Key) -> int:
        """Return behind which row of ``key`` nothing was ever sent."""
        return self._highest.get(key, 0)

    def acknowledge(self, key: Key, upto: int, now_ns: int) -> None:
        """Drop the frames whose rows have arrived, and learn from the last of them."""
        arrived = [sent for sent in self._sent if sent.key == key and sent.upto <= upto]
        if not arrived:
            return
        self._sent = deque(sent for sent in self._sent if sent not in arrived)
        self._strikes = 0
        if arrived[-1].is_first_time:
            self._learn(now_ns - arrived[-1].sent_ns)

    def timeout_ns(self) -> int:
        """Return how long the oldest frame may take."""
        expected: float = _FIRST_TIMEOUT_NS
        if self._smooth_ns is not None:
            expected = _PATIENCE * (self._smooth_ns + 4 * self._spread_ns)
        doubled = max(expected, _SHORTEST_NS) * 2.0 ** min(self._strikes, 8)
        return int(min(doubled, _LONGEST_NS) * (1 + _JITTER * self._jitter))

    def due_in_ns(self, now_ns: int) -> int | None:
        """Return how long until the oldest frame is overdue; None when there is none."""
        if not self._sent:
            return None
        return self._sent[0].sent_ns + self.timeout_ns() - now_ns

    def room(self, limit: int) -> int:
        """Return how many frames more may be sent, of ``limit`` in good times.

        Each time-out halves it, down to four, until something arrives: an ingest that
        hangs must not fill its broker with copies of the window.
        """
        most = max(min(limit, _FEWEST), limit >> min(self._strikes, 8))
        return max(0, most - len(self._sent))

    def strike(self, jitter: float) -> None:
        """Note that the time-out struck; ``jitter`` from 0 to 1 stretches the next one."""
        self._strikes += 1
        self._jitter = jitter

    def clear(self) -> None:
        """Forget all frames on their way, and the streams of other epochs."""
        self._sent.clear()
        if len(self._highest) > 256:
            self._highest.clear()

    def _learn(self, sample_ns: int) -> None:
        if self._smooth_ns is None:
            self._smooth_ns, self._spread_ns = float(sample_ns), sample_ns / 2
            return
        self._spread_ns += (abs(self._smooth_ns - sample_ns) - self._spread_ns) / 4
        self._smooth_ns += (sample_ns - self._smooth_ns) / 8
