"""Who tries to enroll or renew and is refused too often."""

from __future__ import annotations

import threading
from collections import OrderedDict

import msgspec

from edge_runtime.ports import Clock

__all__ = ["Refusals"]

_MOST = 10
_PER_S = 1 / 6
_ADDRESSES = 1024


class _Account(msgspec.Struct):
    """How many refusals an address has left.

    Attributes:
        left: At ``at_ns``; they come back at a steady rate.
        at_ns: Monotonic.
    """

    left: float
    at_ns: int


class Refusals:
    """Ten at once and ten a minute for each address; callable from any thread.

    Guessing a token is hopeless, but each try is a transaction in the store, which has
    rows to take. Memory: the 1,024 addresses that were refused last.

    Args:
        clock: Monotonic time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def are_too_many(self, address: str) -> bool:
        """Whether an address has to wait before it is listened to again."""
        with self._guard:
            return address in self._accounts and self._account(address).left < 1

    def note(self, address: str) -> bool:
        """Note one; whether it was the last before the address has to wait."""
        with self._guard:
            account = self._account(address)
            account.left = max(0.0, account.left - 1)
            self._accounts[address] = account
            self._accounts.move_to_end(address)
            if len(self._accounts) > _ADDRESSES:
                self._accounts.popitem(last=False)
            return account.left < 1

    def _account(self, address: str) -> _Account:
        """Return the account as it is now."""
        now_ns = self._clock.monotonic_ns()
        account = self._accounts.get(address) or _Account(_MOST, now_ns)
        account.left = min(_MOST, account.left + (now_ns - account.at_ns) / 1e9 * _PER_S)
        account.at_ns = now_ns
        return account
