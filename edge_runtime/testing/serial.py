"""A serial port with nothing but a test at its other end."""

from __future__ import annotations

import os
import threading
import time
import tty
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

from edge_runtime.testing.playing import in_background

__all__ = ["FakeSerial"]


class FakeSerial:
    """A pseudo-terminal behind a stable name, as udev makes them by adapter.

    Args:
        folder: Where the name is put; empty.

    Attributes:
        port: The stable name, a link to the terminal of the moment.
    """

    def __init__(self, folder: Path) -> None:
        self.port = folder / "usb-sensor"
        self._lock = threading.Lock()
        self._near = -1
        self.plug()

    @property
    def node(self) -> str:
        """The node of the moment, such as ``/dev/pts/3``; another one after `plug`."""
        return str(self.port.readlink())

    def send(self, message: bytes) -> int:
        """Let the sensor send; return how many bytes found room before nobody read them."""
        with self._lock, suppress(BlockingIOError):
            return os.write(self._near, message) if self._near >= 0 else 0
        return 0

    def playing(
        self, rate_hz: float, message: Callable[[int], bytes]
    ) -> AbstractContextManager[None]:
        """Let the sensor send in real time: ``message(k)`` for sample k."""
        return in_background(partial(self._play, rate_hz, message))

    def unplug(self) -> None:
        """Take the adapter away, and its name with it."""
        with self._lock:
            if self._near >= 0:
                self.port.unlink()
                os.close(self._near)
                self._near = -1

    def plug(self) -> None:
        """Put it in: the same name leads to a new terminal."""
        with self._lock:
            self._near, far = os.openpty()
            # Nobody echoes what a sensor sends.
            tty.setraw(far)
            os.set_blocking(self._near, False)
            self.port.symlink_to(os.ttyname(far))
            os.close(far)

    def close(self) -> None:
        """Release the terminal; safe to call twice."""
        self.unplug()

    def _play(
        self, rate_hz: float, message: Callable[[int], bytes], ended: threading.Event
    ) -> None:
        began_s, sent = time.monotonic(), 0
        while not ended.wait(min(0.01, 1 / rate_hz)):
            due = int((time.monotonic() - began_s) * rate_hz)
            self.send(b"".join(message(number) for number in range(sent, due)))
            sent = due
