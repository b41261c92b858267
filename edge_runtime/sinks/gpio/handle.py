"""The device's end of a guardian: start it, send it orders, let it go."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from contextlib import suppress

import msgspec

from edge_runtime.child import child_command, child_environment
from edge_runtime.errors import Rejected
from edge_runtime.sinks.gpio.config import GpioConfig
from edge_runtime.sinks.gpio.guardian import Reply
from edge_runtime.sinks.gpio.levels import Order

__all__ = ["Handle"]

_READY_S = 20.0
_STOP_S = 5.0


class Handle:
    """A running guardian that owns its pins; used by one thread.

    Args:
        config: Which pins.

    Raises:
        Rejected: The pins cannot be claimed.
    """

    def __init__(self, config: GpioConfig) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            child_command("edge_runtime.sinks.gpio.guardian"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What is meant for the device's group, such as Ctrl-C, is not meant for it.
            start_new_session=True,
            env=_environment(config),
        )
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._orders = self._process.stdin.fileno()
        self._write(msgspec.json.encode(config))
        # Whoever does not read hangs: from now on a full pipe is an error.
        os.set_blocking(self._orders, False)
        reply = self._reply()
        if reply.what:
            self.stop()
            raise Rejected(
                f"the pins cannot be claimed ({reply.what})",
                where="gpio",
                expected=f"pins {', '.join(str(pin.pin) for pin in config.pins)}",
                remedy=reply.remedy,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_gone(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def send(self, order: Order) -> None:
        """Send an order.

        Raises:
            OSError: The guardian has ended, or hangs.
        """
        self._write(msgspec.json.encode(order))

    def stop(self) -> None:
        """Close the pipe and wait until the guardian has made the pins safe and ended."""
        with self._process as process:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
                return
            process.kill()

    def kill(self) -> None:
        """End a guardian that cannot be trusted any more."""
        with self._process as process:
            process.kill()

    def _write(self, line: bytes) -> None:
        # An order is shorter than PIPE_BUF: it is written whole or not at all.
        os.write(self._orders, line + b"\n")

    def _reply(self) -> Reply:
        answers = self._process.stdout
        assert answers is not None  # noqa: S101 - it is a pipe
        ready, _, _ = select.select([answers], [], [], _READY_S)
        line = answers.readline() if ready else b""
        if not line:
            return Reply("the guardian does not start", "Look at its standard error in the log.")
        return msgspec.json.decode(line, type=Reply)


def _environment(config: GpioConfig) -> dict[str, str]:
    # lgpio keeps a pipe in its working folder, which may be read-only.
    home = {"LG_WD": os.environ.get("LG_WD", tempfile.gettempdir())}
    return child_environment() | home | {"GPIOZERO_PIN_FACTORY": config.factory}
