"""Tells systemd that a device runs and goes on; the standard library alone, and little of it."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]


class Notifier:
    """Datagrams to the service manager; silent where nobody asked for them.

    Source: sd_notify(3) and sd_watchdog_enabled(3). They are small and sent without
    waiting: a service manager that does not listen holds nothing up.

    Args:
        environment: Holds ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``; the process's own by default.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        told = os.environ if environment is None else environment
        self._address = told.get("NOTIFY_SOCKET", "")
        self._is_ready = False
        self._every_s = int(told.get("WATCHDOG_USEC") or 0) / 2e6
        self._sent_s = -math.inf

    def ready(self) -> None:
        """Say once that the device has started."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1\nSTATUS=The device runs.")

    def alive(self) -> None:
        """Say that somebody still watches the device, at most twice per watchdog period."""
        now_s = time.monotonic()
        if self._every_s and now_s - self._sent_s >= self._every_s:
            self._sent_s = now_s
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Show a line in ``systemctl status``."""
        line = text.replace("\n", " ")
        self._send(f"STATUS={line}")

    def stopping(self) -> None:
        """Say that the device has been asked to end."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # An address that begins with @ lies in the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                out.sendto(text.encode(), address)
        except OSError:
            # It is told again in a moment; the device matters more.
            return
