"""The machine's own clock; everything else gets a `Clock` passed in."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """Wall time and monotonic time of this machine."""

    def now_ns(self) -> int:
        """Wall time, ns since the Unix epoch, UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """A time that never goes back, ns."""
        return time.monotonic_ns()
