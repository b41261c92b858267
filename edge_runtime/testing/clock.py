"""A clock that stands until it is told to move."""

from __future__ import annotations

import threading

__all__ = ["FakeClock"]


class FakeClock:
    """Wall and monotonic time under a test's control; usable from any thread.

    Args:
        now_ns: Wall time at the start, ns since the Unix epoch, UTC.
    """

    def __init__(self, now_ns: int = 1_356_998_400_000_000_000) -> None:
        self._lock = threading.Lock()
        self._now_ns = now_ns
        self._monotonic_ns = 0

    def now_ns(self) -> int:
        """Wall time, ns since the Unix epoch, UTC."""
        with self._lock:
            return self._now_ns

    def monotonic_ns(self) -> int:
        """Time since the clock was made, ns."""
        with self._lock:
            return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Raises:
            ValueError: ``seconds`` is negative; only wall time may `jump` back.
        """
        if seconds < 0:
            raise ValueError(f"time cannot pass by {seconds} s")
        with self._lock:
            self._now_ns += round(seconds * 1e9)
            self._monotonic_ns += round(seconds * 1e9)

    def jump(self, seconds: float) -> None:
        """Set wall time forward or back, as NTP or a person does; monotonic time stands."""
        with self._lock:
            self._now_ns += round(seconds * 1e9)
