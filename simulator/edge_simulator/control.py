"""The control channel between a driver and one simulated device: JSON, one object a line.

::

    driver → device    {"release": {"turbine": 120}}      samples below 120 may be delivered
                       {"clock_s": 3600.0}                your wall clock is so far ahead
                       {"disk_full": true}                no file of yours grows until it is false
                       {"fuse": ["commit", 3]}            end by SIGKILL at the third commit
                       {"status": true}                   say now what you are doing
                       {"stop": true}                     end cleanly
    device → driver    {"event": "rows.committed", "stream": "turbine", "position": 120}

It carries test instructions and observations, never records: those go through
the device's own outbox and link. Loopback only.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from edge_runtime.errors import SourceError, WireError

__all__ = ["Channel", "Gate", "connect", "decode", "listen", "reader"]

_LINE_BYTES = 1024 * 1024
# Lines that may wait for a slow reader; when full, the newest are dropped and counted.
_QUEUE_LINES = 4096


class Channel:
    """One end of the control channel.

    ``send`` may be called from any thread and never waits; ``lines`` belongs
    to one reader. Full-policy of the send queue: ``drop_newest``, counted in
    ``dropped``.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUE_LINES)
        self._sender = threading.Thread(target=self._send_all, name="control", daemon=True)
        self._sender.start()
        self.dropped = 0

    def send(self, message: Mapping[str, object]) -> None:
        """Queue one object; arrays become lists."""
        line = msgspec.json.encode(message, enc_hook=_plain) + b"\n"
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what the other side sends, until it closes or dies.

        Raises:
            WireError: A line is no JSON object, or longer than 1 MiB.
        """
        with self._connection.makefile("rb") as stream:
            while line := self._next(stream):
                yield decode(line)

    def close(self) -> None:
        """Send what is queued and hang up; safe to call twice."""
        try:
            self._queue.put(None, timeout=1.0)
        except queue.Full:
            self.dropped += self._queue.qsize()
        self._sender.join(1.0)
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The other side was faster.
            return
        finally:
            self._connection.close()

    def _next(self, stream: Any) -> bytes:
        try:
            return bytes(stream.readline(_LINE_BYTES))
        except (OSError, ValueError):
            # A killed process resets the connection: the end, like any other.
            return b""

    def _send_all(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._connection.sendall(line)
            except OSError:
                return


class Gate:
    """A pace that delivers only what the driver has released; one per stream.

    Satisfies ``edge_runtime.sources.Pace``. ``release`` may be called from any
    thread, and never takes back.
    """

    def __init__(self) -> None:
        self._released = 0
        self._changed = threading.Condition()

    def release(self, index: int) -> None:
        """Let samples below ``index`` pass."""
        with self._changed:
            self._released = max(self._released, index)
            self._changed.notify_all()

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:  # noqa: ARG002
        """Return how many samples from ``index`` on may be delivered now; 0 after ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._released > index, timeout_s)
            return max(0, self._released - index)


def listen() -> socket.socket:
    """Open the driver's end on a free port of 127.0.0.1."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    return server


def connect(address: str, timeout_s: float = 10.0) -> Channel:
    """Open the device's end.

    Args:
        address: ``127.0.0.1:PORT`` of the driver.
        timeout_s: For the connection alone.

    Raises:
        SourceError: Nobody listens there.
    """
    host, _, port = address.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), timeout_s)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"no driver: {error}",
            where=f"--control {address}",
            expected="a driver listening there",
            remedy="The demo starts this process itself; use edge-runtime run for a device alone.",
        ) from error
    connection.settimeout(None)
    return Channel(connection)


def decode(line: bytes) -> dict[str, Any]:
    """Read one line.

    Raises:
        WireError: It is no JSON object, or was cut at the size limit.
    """
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise WireError(
            f"a line does not decode: {error}",
            where="control channel",
            expected=f"one JSON object of at most {_LINE_BYTES} bytes",
        ) from error


def reader(
    channel: Channel, handle: Callable[[dict[str, Any]], None], ended: Callable[[], None]
) -> threading.Thread:
    """Start a thread that hands every line to ``handle``, and calls ``ended`` after the last."""

    def read() -> None:
        try:
            for line in channel.lines():
                handle(line)
        finally:
            ended()

    thread = threading.Thread(target=read, name="control-reader", daemon=True)
    thread.start()
    return thread


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)
