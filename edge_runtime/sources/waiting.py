"""Waiting for a file descriptor, until another thread ends it."""

from __future__ import annotations

import os
import select
import threading

__all__ = ["Readiness"]


class Readiness:
    """Waits until a file can be read; woken for good by any thread.

    Args:
        file: Descriptor to watch; it stays the caller's.
    """

    def __init__(self, file: int) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self._woken, self._waker = os.pipe()
        self._nap = select.poll()
        self._nap.register(self._woken, select.POLLIN)
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        self._poll.register(file, select.POLLIN)

    @property
    def is_woken(self) -> bool:
        """Whether somebody has called `wake`."""
        return bool(self._nap.poll(0))

    def wait(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s``; True if the file has something to tell, an end included."""
        ready = self._poll.poll(int(timeout_s * 1000))
        return bool(ready) and all(file != self._woken for file, _ in ready)

    def nap(self, duration_s: float) -> bool:
        """Let more arrive for ``duration_s``; False if woken."""
        return not self._nap.poll(int(duration_s * 1000))

    def wake(self) -> None:
        """End this and every later wait; callable from any thread, also when closed."""
        with self._lock:
            if not self._is_closed:
                os.write(self._waker, b"\0")

    def close(self) -> None:
        """Release the pipe; safe to call twice, but not while another thread waits."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._woken)
                os.close(self._waker)
