"""A microcontroller with an accelerometer: prints lines into a serial adapter's socket."""

from __future__ import annotations

import fcntl
import itertools
import socket
import struct
import termios
import threading
import time
from pathlib import Path

__all__ = ["Accelerometer"]

_RATE_HZ = 50


class Accelerometer:
    """Prints ``n,x,y,z`` 50 times a second, a recording over and over, from its own thread.

    Like a real one it never waits: what nobody takes is gone.

    Args:
        port: The socket of the adapter, as `vm.Machine` made it.
        rows: What it measures, as text.
    """

    def __init__(self, port: Path, rows: list[str]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(port))
        self._rows = rows
        self._unplugged = threading.Event()
        self._thread = threading.Thread(target=self._print, name="accelerometer", daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Stop printing."""
        self._unplugged.set()
        self._thread.join()
        self._socket.close()

    def _print(self) -> None:
        begin = time.monotonic()
        for number, row in zip(itertools.count(), itertools.cycle(self._rows), strict=False):
            if self._unplugged.wait(max(0.0, begin + number / _RATE_HZ - time.monotonic())):
                return
            try:
                self._offer(f"{number % 65536},{row}\n")
            except OSError:
                # The machine has lost its power.
                return

    def _offer(self, line: str) -> None:
        waiting = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        if struct.unpack("i", waiting)[0] == 0:
            self._socket.sendall(line.encode())
