"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import secrets
from collections.abc import Callable

__all__ = ["Backoff"]

_RANDOM = secrets.SystemRandom()
_MOST_DOUBLINGS = 16


class Backoff:
    """Full jitter: anywhere between nothing and a bound that doubles with every failure.

    So those that lost the same server do not all come back at the same moment.

    Args:
        first_s: The first bound.
        last_s: The bound that is never exceeded.
        jitter: Returns a number from 0 to 1 that scales the wait.
    """

    def __init__(
        self, first_s: float, last_s: float, *, jitter: Callable[[], float] = _RANDOM.random
    ) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._jitter = jitter
        self._failures = 0

    def next_s(self) -> float:
        """Note a failure and return how long to wait after it."""
        bound_s = min(self._last_s, self._first_s * 2.0 ** min(self._failures, _MOST_DOUBLINGS))
        self._failures += 1
        return self._jitter() * bound_s

    def reset(self) -> None:
        """Note that it worked."""
        self._failures = 0
