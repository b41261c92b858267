"""A bounded load on an HTTP server: so many connections, each asking again when it is answered.

One thread, sockets that do not block, requests made in advance: it takes a small
part of what a server takes, so that it is not what is measured.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

import msgspec

__all__ = ["Loaded", "http_request", "load"]

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_PATIENCE_S = 30.0


class Loaded(msgspec.Struct, frozen=True):
    """What a load saw.

    Attributes:
        count: Requests answered.
        seconds: From the first request to the last answer.
        latencies_us: Of every request but the first of each connection, which
            waits for the connection as well; sorted.
        body: Of the last answer.
    """

    count: int
    seconds: float
    latencies_us: tuple[float, ...]
    body: bytes

    def quantile_us(self, q: float) -> float:
        """Return the latency that a share ``q`` of the requests stays below."""
        return self.latencies_us[min(len(self.latencies_us) - 1, int(q * len(self.latencies_us)))]


def http_request(path: str, body: bytes, *lines: str) -> bytes:
    """Return a POST of JSON, or of what ``lines`` of the head say."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return "\r\n".join(head).encode() + _HEAD_END + body


def load(
    port: int,
    request: bytes,
    *,
    count: int,
    connections: int,
    is_right: Callable[[bytes], bool],
) -> Loaded:
    """Send ``count`` requests over as many ``connections`` at once.

    Raises:
        RuntimeError: An answer is not 200, or ``is_right`` says no to its body.
        TimeoutError: Nothing came for half a minute.
    """
    with selectors.DefaultSelector() as selector:
        clients = [_Client(port, request) for _ in range(connections)]
        try:
            for client in clients:
                selector.register(client.socket, selectors.EVENT_READ, client)
            return _driven(selector, clients, count, is_right)
        finally:
            for client in clients:
                client.socket.close()


def _driven(
    selector: selectors.BaseSelector,
    clients: list[_Client],
    count: int,
    is_right: Callable[[bytes], bool],
) -> Loaded:
    latencies: list[float] = []
    body = b""
    answered = 0
    start = time.perf_counter()
    for client in clients:
        client.ask()
    sent = len(clients)
    while answered < count:
        ready = selector.select(_PATIENCE_S)
        if not ready:
            raise TimeoutError(f"no answer within {_PATIENCE_S:g} s")
        for key, _ in ready:
            client = key.data
            answer = client.take()
            if answer is None:
                continue
            body = answer
            answered += 1
            if client.answers > 1:
                latencies.append((time.perf_counter() - client.asked) * 1e6)
            if sent < count:
                client.ask()
                sent += 1
    if not is_right(body):
        raise RuntimeError(f"the answer is {body[:200]!r}")
    return Loaded(answered, time.perf_counter() - start, tuple(sorted(latencies)), body)


class _Client:
    """One connection."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._seen = b""
        self.asked = 0.0
        self.answers = 0

    def ask(self) -> None:
        self.asked = time.perf_counter()
        self.socket.sendall(self._request)

    def take(self) -> bytes | None:
        """Read what is there; return the body once it is complete."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise RuntimeError(f"the connection was closed after {self._seen[:200]!r}")
        self._seen += part
        head, mark, body = self._seen.partition(_HEAD_END)
        if not mark:
            return None
        if b" 200 " not in head[:16]:
            raise RuntimeError(f"the answer is {self._seen[:300]!r}")
        length = int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        self._seen = b""
        self.answers += 1
        return body
