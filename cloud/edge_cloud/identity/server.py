"""The enrolment service: three requests over HTTPS, one per connection.

Anybody can reach it, so everything is bounded: connections at a time, the time of each
from its first byte to its last, and the size of a body. Nothing is kept per client.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

import msgspec

from edge_cloud.identity.authority import Credentials
from edge_cloud.identity.enrolment import Enrolment, Peer
from edge_cloud.identity.refusals import Refusals
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, EdgeError, RequestError, WireError
from edge_runtime.ports import Clock
from edge_runtime.sync.identity.messages import (
    AUTHORITY_PATH,
    ENROLL_PATH,
    MAX_BODY_BYTES,
    RENEW_PATH,
    Authority,
    EnrollRequest,
    Issued,
    Refused,
    RenewRequest,
    decode_body,
)

__all__ = ["EnrolmentServer"]

log = logging.getLogger(__name__)

_CONNECTIONS = 32
_CONNECTION_S = 15.0
_STATUS = {"forbidden": 403, "unknown": 404, "invalid": 400}


class EnrolmentServer:
    """Serves enrolment and renewal; a device shows its certificate for the latter.

    Thread: `run` is the accepting thread; each connection has one of its own, at most 32.
    A connection beyond that is closed at once (``drop_newest``).

    Args:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        credentials: What it shows.
        enrolment: Decides.
        clock: Tells when an address that was refused too often is listened to again.

    Attributes:
        port: Where it listens.

    Raises:
        ConfigError: Nobody can listen there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        credentials: Credentials,
        enrolment: Enrolment,
        clock: Clock | None = None,
    ) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_verify_locations(credentials.authority)
        # Who enrolls has no certificate yet; who renews is asked for it later.
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self.use(credentials)
        try:
            self._server = _Server(
                (host, port), self._context, enrolment, Refusals(clock or SystemClock())
            )
        except OSError as error:
            raise ConfigError(
                f"enrolment cannot be served on {host}:{port}: {error.strerror or error}",
                where="identity",
                expected="a free port on an address of this machine",
                remedy="Choose another identity.port, or end the program that has it.",
            ) from error
        self.port: int = self._server.server_address[1]

    def use(self, credentials: Credentials) -> None:
        """Show this certificate from the next connection on; callable from any thread."""
        self._context.load_cert_chain(credentials.certificate, credentials.key)

    def run(self) -> None:
        """Answer until `stop`."""
        with self._server:
            self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End `run`; callable from any other thread, while it runs."""
        self._server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        enrolment: Enrolment,
        refusals: Refusals,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._context = context
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        self.enrolment = enrolment
        self.refusals = refusals
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the network what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands here, so that a silent client holds up nobody but itself."""
        request.settimeout(_CONNECTION_S)
        secure = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        deadline = threading.Timer(_CONNECTION_S, _cut, [secure])
        deadline.daemon = True
        deadline.start()
        try:
            secure.do_handshake()
            super().process_request_thread(secure, client_address)
        except OSError as error:
            log.debug("enrolment.connection_failed", extra={"why": str(error)})
            self.shutdown_request(secure)
        finally:
            deadline.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Keep a connection that broke out of standard error."""
        log.debug("enrolment.request_failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; whatever is not as agreed is refused with a reason."""

    server: _Server
    timeout = _CONNECTION_S

    def do_GET(self) -> None:
        """Give the authority's certificate to anybody: it is no secret."""
        if self.path != AUTHORITY_PATH:
            self._refuse(404, f"only {AUTHORITY_PATH} can be read")
            return
        pem = self.server.enrolment.authority.path.read_text()
        self._send(200, Authority(pem))

    def do_POST(self) -> None:
        """Enroll or renew."""
        if self.server.refusals.are_too_many(self.client_address[0]):
            self._refuse(429, "too many requests of this address were refused; wait a minute")
            return
        try:
            self._send(200, self._answer())
        except (RequestError, WireError) as error:
            self._note_refusal(error.what)
            kind = error.kind if isinstance(error, RequestError) else "invalid"
            self._refuse(_STATUS.get(kind, 400), error.what)
        except EdgeError as error:
            log.error("enrolment.failed", extra={"why": str(error)})
            self._refuse(503, "the cloud cannot answer now")

    def _note_refusal(self, why: str) -> None:
        client = self.client_address[0]
        log.warning("enrolment.refused", extra={"why": why, "path": self.path, "client": client})
        if self.server.refusals.note(client):
            log.error("enrolment.client_held_off", extra={"client": client})

    def _answer(self) -> Issued:
        if self.path == ENROLL_PATH:
            return self.server.enrolment.enroll(decode_body(self._body(), EnrollRequest))
        if self.path == RENEW_PATH:
            request = decode_body(self._body(), RenewRequest)
            return self.server.enrolment.renew(request, _peer(self.connection))
        raise RequestError("there is nothing at this path", kind="unknown")

    def _body(self) -> bytes:
        announced = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,6}", announced) or int(announced) > MAX_BODY_BYTES:
            raise RequestError(f"body of {announced[:20] or 'unknown'} bytes")
        return self.rfile.read(int(announced))

    def _refuse(self, status: int, why: str) -> None:
        self._send(status, Refused(why))

    def _send(self, status: int, answer: msgspec.Struct) -> None:
        body = msgspec.json.encode(answer)
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Keep requests out of standard error."""
        log.debug("enrolment.requested", extra={"request": format % args})


def _peer(connection: Any) -> Peer | None:
    """Return who has shown a certificate; OpenSSL has checked who signed it, and its times."""
    shown = connection.getpeercert()
    if not shown:
        return None
    names = [value for part in shown["subject"] for key, value in part if key == "commonName"]
    return Peer(names[0], int(shown["serialNumber"], 16)) if len(names) == 1 else None


def _cut(secure: ssl.SSLSocket) -> None:
    """Let whoever waits for the socket wake up; TLS's own farewell would wait as well."""
    with suppress(OSError):
        socket.socket.shutdown(secure, socket.SHUT_RDWR)
