"""How fast simulated time passes for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pacer"]

Speed = float | None
"""Simulated seconds a second; None waits for nothing."""


class Pacer:
    """Turns simulated time into time on the wall, at a speed that may change.

    Args:
        speed: Simulated seconds a second; None waits for nothing.
        monotonic_s: Tells the time on the wall.
    """

    def __init__(self, speed: Speed, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._speed = speed
        self._base = (monotonic_s(), 0)
        self._paused_ns: int | None = None

    @property
    def speed(self) -> Speed:
        """Simulated seconds a second; None for no limit."""
        return self._speed

    @property
    def is_paused(self) -> bool:
        """Whether time stands still."""
        return self._paused_ns is not None

    def set(self, speed: Speed, elapsed_ns: int) -> None:
        """Go on at another speed from ``elapsed_ns``."""
        self._speed = speed
        self._paused_ns = None
        self._base = (self._monotonic_s(), elapsed_ns)

    def pause(self, elapsed_ns: int) -> None:
        """Stop, or go on."""
        if self._paused_ns is None:
            self._paused_ns = elapsed_ns
        else:
            self.set(self._speed, elapsed_ns)

    def reached_ns(self, limit_ns: int) -> int:
        """Return what simulated time it is now, at most ``limit_ns``."""
        if self._paused_ns is not None:
            return min(self._paused_ns, limit_ns)
        if self._speed is None:
            return limit_ns
        began_s, zero_ns = self._base
        return min(limit_ns, zero_ns + round((self._monotonic_s() - began_s) * 1e9 * self._speed))
