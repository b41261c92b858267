"""HTTP/1.1 connections: bounded in time, in bytes and in number.

The parser is httptools (llhttp, as in Node.js), the transport asyncio's. What no
server of the registry bounds is bounded here: clients that send nothing, half a
head or half a body, or that never take their answer.
Source: RFC 9112 (messages), RFC 9110 (100-continue, status codes).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from edge_runtime.errors import MissingExtra
from edge_runtime.modes.realtime.config import Limits
from edge_runtime.ports import Clock

__all__ = ["Connection", "Exchange", "Hub", "Pending", "Response", "error_response"]

_JSON = b"application/json"
_HEAD_BYTES = 32 * 1024
_READ_BYTES = 256 * 1024
_MOST_PIPELINED = 16
_FAREWELL_S = 2.0
_KEPT = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"inference-header-content-length",
        b"origin",
    )
)
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Exchange(msgspec.Struct, frozen=True, eq=False):
    """One request as it came.

    Attributes:
        method: In capitals.
        path: Without the query.
        headers: Those that somebody looks at, by lower-case name.
        body: All of it.
        is_kept: Whether the connection may stay open.
        began_ns: When its last byte came, monotonic.
    """

    method: bytes
    path: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    is_kept: bool
    began_ns: int


class Response(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        status: HTTP status code.
        body: All of it.
        kind: Its media type.
        extra: More header lines, each ending in CRLF.
    """

    status: int
    body: bytes
    kind: bytes = _JSON
    extra: bytes = b""


class Pending(msgspec.Struct, frozen=True, eq=False):
    """An answer that comes later: a future, and what makes it a response."""

    future: asyncio.Future[Any]
    finish: Callable[[asyncio.Future[Any]], Response]


def error_response(status: int, message: str, extra: bytes = b"") -> Response:
    """Return an error in the protocol's form: ``{"error": message}``."""
    return Response(status, msgspec.json.encode({"error": message}), extra=extra)


class Hub:
    """All connections of a server, and what they share; event loop only.

    Args:
        limits: How much is taken on.
        answer: Answers a request.
        clock: Tells deadlines.

    Attributes:
        limits: As given.
        answer: As given.
        clock: As given.
        body_bytes: Largest body.
        held_bytes: Bodies that are being received or answered.
        is_draining: Whether answers say that the connection closes.
        closed: Connections ended by the server, by reason.
        opened: Connections so far.
        waiting: Connections without a whole request, the longest wait first.
        busy: All others.
        parser: Class of the parser.
        buffer: What is read goes here first.
    """

    def __init__(
        self, limits: Limits, answer: Callable[[Exchange], Response | Pending], clock: Clock
    ) -> None:
        self.limits = limits
        self.answer = answer
        self.clock = clock
        self.body_bytes = round(limits.body_mb * (1 << 20))
        self._bodies_bytes = round(limits.bodies_mb * (1 << 20))
        self.held_bytes = 0
        self.is_draining = False
        self.closed: dict[str, int] = {}
        self.opened = 0
        self.waiting: dict[Connection, None] = {}
        self.busy: set[Connection] = set()
        self.parser = _parser()
        self.buffer = memoryview(bytearray(_READ_BYTES))

    def __len__(self) -> int:
        return len(self.waiting) + len(self.busy)

    @property
    def has_room(self) -> bool:
        """Whether more of bodies may be held."""
        return self.held_bytes < self._bodies_bytes

    @property
    def is_quiet(self) -> bool:
        """Whether no request is being received or answered."""
        return not self.busy and all(connection.is_idle for connection in self.waiting)

    def deadline_ns(self, seconds: float) -> float:
        """Return the monotonic time in so many seconds."""
        return self.clock.monotonic_ns() + seconds * 1e9

    def note_closed(self, reason: str) -> None:
        """Count a connection that the server ended."""
        self.closed[reason] = self.closed.get(reason, 0) + 1

    def evict(self) -> bool:
        """End the connection that has waited longest; False if all are being answered."""
        oldest = next(iter(self.waiting), None)
        if oldest is None:
            return False
        self.note_closed("full")
        oldest.abort()
        return True

    def sweep(self) -> None:
        """End connections whose time is up."""
        now_ns = self.clock.monotonic_ns()
        for connection in [*self.waiting, *self.busy]:
            if connection.deadline_ns < now_ns:
                connection.expire()

    def end_all(self) -> None:
        """End all connections at once."""
        for connection in [*self.waiting, *self.busy]:
            connection.abort()


def _parser() -> Callable[[object], Any]:
    """Return the class of the parser; nothing is imported unless something is served."""
    try:
        from httptools import HttpRequestParser
    except ImportError as error:
        raise MissingExtra.of("edge-runtime serve", "httptools", "serve") from error
    return cast("Callable[[object], Any]", HttpRequestParser)


class Connection(asyncio.BufferedProtocol):
    """One client. Requests are answered in order; at most 16 may be sent ahead.

    Args:
        hub: What it belongs to.

    Attributes:
        deadline_ns: When it will have waited too long, monotonic.
        is_idle: Whether nothing of a request has come since the last answer.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.is_idle = True
        self.deadline_ns = hub.deadline_ns(hub.limits.head_s)
        self._transport: asyncio.Transport = None  # type: ignore[assignment] # set at once
        self._parser = hub.parser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._head_bytes = self._body_bytes = self._held_bytes = 0
        self._has_head = False
        self._complete: deque[Exchange] = deque()
        self._pending: asyncio.Future[Any] | None = None
        self._refusal: tuple[Response, str] | None = None
        self._is_ending = self._is_blocked = self._is_paused = False

    # --- the transport ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        self._hub.opened += 1
        self._hub.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Let go of everything; called by asyncio."""
        self._is_ending = True
        self._hub.waiting.pop(self, None)
        self._hub.busy.discard(self)
        self._release(self._held_bytes)
        if self._pending is not None:
            # The model is not asked for a client that has gone.
            self._hub.note_closed("vanished")
            self._pending.cancel()

    def pause_writing(self) -> None:
        """Wait until the client takes its answer; called by asyncio."""
        self._is_blocked = True
        self.deadline_ns = self._hub.deadline_ns(self._hub.limits.write_s)

    def resume_writing(self) -> None:
        """Go on; called by asyncio."""
        self._is_blocked = False
        if not self._is_ending:
            self._wait()
            self._go_on()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where the next bytes go; called by asyncio.

        All connections share it, for they are done with it before another one reads.
        """
        return self._hub.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come; called by asyncio."""
        if self._is_ending:
            return
        data = self._hub.buffer[:nbytes]
        if self.is_idle:
            self.is_idle = False
            self.deadline_ns = self._hub.deadline_ns(self._hub.limits.head_s)
        if not self._has_head:
            self._head_bytes += nbytes
        try:
            self._parser.feed_data(data)
        except Exception as error:
            # The parser has one class for every fault, and another for an upgrade.
            self._refuse(400, f"this is no HTTP/1.1 request: {error}", "no_http")
        if not self._has_head and self._head_bytes > _HEAD_BYTES:
            self._refuse(431, f"the head is longer than {_HEAD_BYTES} bytes", "head")
        self._go_on()

    # --- the parser -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request; called by the parser."""
        self._url, self._headers, self._chunks = b"", {}, []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the target; called by the parser."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; called by the parser."""
        name = name.lower()
        if name in _KEPT:
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Look at a head before its body comes; called by the parser."""
        self._has_head = True
        self._head_bytes = 0
        hub, headers = self._hub, self._headers
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > hub.body_bytes:
            self._refuse_body(length.decode("latin-1"))
        elif b"content-encoding" in headers:
            kind = headers[b"content-encoding"].decode("latin-1")
            self._refuse(415, f"Content-Encoding {kind!r} is not taken; send it plain", "encoding")
        elif not hub.has_room:
            self._refuse(503, "too many bodies are being received; ask again later", "bodies")
        elif headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.deadline_ns = hub.deadline_ns(hub.limits.body_s)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; called by the parser."""
        if self._refusal is not None:
            return
        count = len(body)
        self._body_bytes += count
        self._held_bytes += count
        self._hub.held_bytes += count
        self._chunks.append(body)
        if self._body_bytes > self._hub.body_bytes:
            self._refuse_body(f"more than {self._body_bytes}")

    def on_message_complete(self) -> None:
        """Put a whole request behind those before it; called by the parser."""
        self._has_head = False
        if self._refusal is not None:
            return
        if len(self._complete) >= _MOST_PIPELINED:
            self._refuse(400, f"more than {_MOST_PIPELINED} requests are sent ahead", "pipelined")
            return
        chunks, parser = self._chunks, self._parser
        self._complete.append(
            Exchange(
                parser.get_method(),
                self._url.partition(b"?")[0],
                self._headers,
                chunks[0] if len(chunks) == 1 else b"".join(chunks),
                parser.should_keep_alive(),
                self._hub.clock.monotonic_ns(),
            )
        )
        self._chunks, self._body_bytes = [], 0

    # --- refusing ---------------------------------------------------------------------

    def _refuse_body(self, length: str) -> None:
        most = self._hub.body_bytes
        self._refuse(413, f"the body has {length} bytes; expected at most {most}", "body")

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Answer with an error behind the requests before, and read no more."""
        if self._refusal is None:
            self._refusal = error_response(status, message), reason
            self._release(self._body_bytes)
            self._chunks, self._body_bytes = [], 0

    def expire(self) -> None:
        """Do what is due at the deadline."""
        if self._is_ending or self._is_blocked:
            self._hub.note_closed("farewell" if self._is_ending else "write")
            self.abort()
        elif self.is_idle:
            self._hub.note_closed("idle")
            self.close()
        else:
            part = "body" if self._has_head else "head"
            self._refuse(408, f"the {part} did not come in time", f"slow_{part}")
            self._go_on()

    def close(self) -> None:
        """End behind what is being written."""
        self._is_ending = True
        self.deadline_ns = self._hub.deadline_ns(_FAREWELL_S)
        self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._is_ending = True
        self._transport.abort()
        # Not only when the loop gets to it: whoever makes room counts on it now.
        self._hub.waiting.pop(self, None)

    # --- answering --------------------------------------------------------------------

    def _go_on(self) -> None:
        """Answer what is complete, one after the other, until an answer takes its time."""
        while self._complete and not (self._pending or self._is_blocked or self._is_ending):
            exchange = self._complete.popleft()
            answer = self._hub.answer(exchange)
            if isinstance(answer, Pending):
                self._await(answer, exchange)
            else:
                self._write(answer, exchange)
        if self._refusal is not None and not (self._complete or self._pending or self._is_ending):
            self._say_farewell(*self._refusal)
        self._set_reading()

    def _await(self, answer: Pending, exchange: Exchange) -> None:
        self._pending = answer.future
        self._hub.waiting.pop(self, None)
        self._hub.busy.add(self)
        self.deadline_ns = math.inf

        def done(future: asyncio.Future[Any]) -> None:
            self._pending = None
            if not self._is_ending:
                self._write(answer.finish(future), exchange)
                self._go_on()

        answer.future.add_done_callback(done)

    def _write(self, response: Response, exchange: Exchange) -> None:
        is_kept = exchange.is_kept and not self._hub.is_draining
        body = b"" if exchange.method == b"HEAD" else response.body
        self._transport.write(_head(response, is_kept) + body)
        self._release(len(exchange.body))
        if not is_kept:
            self._complete.clear()
            self.close()
        elif not self._is_blocked:
            self._wait()

    def _release(self, count: int) -> None:
        self._hub.held_bytes -= count
        self._held_bytes -= count

    def _wait(self) -> None:
        """Be among those that wait, behind all others."""
        hub, limits = self._hub, self._hub.limits
        hub.busy.discard(self)
        hub.waiting.pop(self, None)
        hub.waiting[self] = None
        self.is_idle = not (self._held_bytes or self._has_head or self._complete)
        self.deadline_ns = hub.deadline_ns(limits.idle_s if self.is_idle else limits.body_s)

    def _say_farewell(self, response: Response, reason: str) -> None:
        """Answer and end, but go on reading for a moment.

        A socket that is closed with unread bytes is reset, and the client may then
        never see the answer (RFC 9112, 9.6).
        """
        self._hub.note_closed(reason)
        self._is_ending = True
        self.deadline_ns = self._hub.deadline_ns(_FAREWELL_S)
        self._transport.write(_head(response, False) + response.body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _set_reading(self) -> None:
        """Leave what is sent far ahead in the kernel."""
        is_full = len(self._complete) >= _MOST_PIPELINED // 2
        if is_full is not self._is_paused and not self._is_ending:
            self._is_paused = is_full
            (self._transport.pause_reading if is_full else self._transport.resume_reading)()


def _head(response: Response, is_kept: bool) -> bytes:
    status = response.status
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b%b\r\n" % (
        status,
        _REASONS[status],
        response.kind,
        len(response.body),
        response.extra,
        b"" if is_kept else b"Connection: close\r\n",
    )
