"""The machine's own clock; everything else gets a `Clock` passed in."""

from __future__ import annotations

import sys
import time

from edge_runtime.types import ClockQuality

__all__ = ["SystemClock", "clock_quality"]

_TIMEX_BYTES = 512  # more than any struct timex; all zeros asks and sets nothing
_TIME_ERROR = 5


class SystemClock:
    """Wall time and monotonic time of this machine."""

    def now_ns(self) -> int:
        """Wall time, ns since the Unix epoch, UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """A time that never goes back, ns."""
        return time.monotonic_ns()


def clock_quality() -> ClockQuality:
    """Return whether the kernel says that something keeps the wall clock right.

    Source: adjtimex(2), whose return value is TIME_ERROR while the clock is not
    synchronised. Where there is no such call, nobody knows: ``unsynced``.
    """
    if not sys.platform.startswith("linux"):
        return "unsynced"
    # Only live sources ask: it would cost every start half a megabyte.
    import ctypes

    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(
            ctypes.create_string_buffer(_TIMEX_BYTES)
        )
    except (OSError, AttributeError):
        return "unsynced"
    return "unsynced" if state in (-1, _TIME_ERROR) else "ntp"
