"""Ends this process at a named step of its work, as a power cut there would."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

__all__ = ["DEVICE_STEPS", "INGEST_STEPS", "Fuse"]

DEVICE_STEPS = ("insert", "commit", "publish", "puback", "ack", "delete")
"""Steps of a row on its way through a device, see `Outbox.open` and `PahoTransport`."""

INGEST_STEPS = ("segment", "catalogue", "ack")
"""Steps of a row on its way into a store, see `Store` and `Ingest`."""


class Fuse:
    """Does nothing until it is set; callable from any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._step = ""
        self._left = 0

    def set(self, step: str, passings: int) -> None:
        """Blow at the ``passings``-th time that ``step`` is passed from now on."""
        with self._guard:
            self._step, self._left = step, passings

    def obey(self, line: Mapping[str, Any]) -> None:
        """Set it, if that is what the driver says."""
        if "fuse" in line:
            self.set(*line["fuse"])

    def at_step(self, step: str) -> None:
        """Pass a step; SIGKILL to this process if the fuse was set to it and its time has come."""
        if step != self._step:
            return
        with self._guard:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
