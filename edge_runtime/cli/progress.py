"""Progress of something that goes in named steps."""

from __future__ import annotations

import sys
import time

__all__ = ["Steps"]

_TOLD_S = 0.2


class Steps:
    """One line on a terminal that is written over; a line per step elsewhere.

    Args:
        quiet_s: Nothing is shown before so many seconds have passed.
    """

    def __init__(self, quiet_s: float = 0.0) -> None:
        self._shown_from_s = time.monotonic() + quiet_s
        self._told_s = 0.0
        self._is_terminal = sys.stderr.isatty()
        self._last = ""

    def tell(self, step: str, what: str, share: float) -> None:
        """Say which step it is, what is in work, and the share that lies behind."""
        now_s = time.monotonic()
        if now_s < self._shown_from_s:
            return
        if self._is_terminal and now_s - self._told_s >= _TOLD_S:
            sys.stderr.write(f"\r\x1b[K{share:4.0%}  {step}: {what}"[:110])
            self._told_s = now_s
        elif not self._is_terminal and step != self._last:
            sys.stderr.write(f"{step} …\n")
        self._last = step

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")
