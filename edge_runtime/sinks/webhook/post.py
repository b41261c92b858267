"""One POST, and what its answer means."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
import threading
from contextlib import suppress
from typing import Literal, NamedTuple

from edge_runtime.errors import ConfigError
from edge_runtime.sinks.webhook.config import WebhookConfig
from edge_runtime.version import __version__

__all__ = ["Answer", "Poster"]

Verdict = Literal["taken", "later", "never"]
# RFC 9110, section 15.5.9 (408), RFC 8470 (425), RFC 6585 (429): the same request may work later.
_LATER = (408, 425, 429)
_LONGEST_RETRY_AFTER_S = 300


class Answer(NamedTuple):
    """What became of a post.

    Attributes:
        verdict: Whether it was taken, may be later, or never will be.
        why: In words, without the URL's path.
        wait_s: How long the server asks us to wait.
    """

    verdict: Verdict
    why: str = ""
    wait_s: float = 0.0


class Poster:
    """Posts bodies, each over a connection of its own; used by one thread.

    Redirects are not followed: a signed body goes where the configuration says, and
    nowhere else.

    Args:
        config: Where to.
        secret: Signs the body, HMAC-SHA256.

    Raises:
        ConfigError: The CA file cannot be used.
    """

    def __init__(self, config: WebhookConfig, secret: bytes | None) -> None:
        parts = config.parts
        self._host, self._port = parts.hostname or "", parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout_s = config.timeout_s
        self._secret = secret
        self._context = _context(config) if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, key: str) -> Answer:
        """Send a body and wait for the answer.

        Args:
            body: JSON.
            key: The same for the same body: the server may see it twice.
        """
        connection = self._connection = self._connected()
        # Every read has a time-out; this one is for a server that answers byte by byte.
        limit = threading.Timer(self._timeout_s, _cut, (connection,))
        limit.daemon = True
        limit.start()
        try:
            connection.request("POST", self._target, body, self._headers(body, key))
            return _meaning(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            return Answer("later", _reason(error))
        finally:
            limit.cancel()
            connection.close()

    def abort(self) -> None:
        """Make a running `post` fail; callable from any thread."""
        if self._connection is not None:
            _cut(self._connection)

    def _connected(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=self._context
        )

    def _headers(self, body: bytes, key: str) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"edge-runtime/{__version__}",
            "Idempotency-Key": key,
        }
        if self._secret is not None:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers["X-Signature-256"] = f"sha256={digest}"
        return headers


def _cut(connection: http.client.HTTPConnection) -> None:
    sock: socket.socket | None = connection.sock
    if sock is not None:
        with suppress(OSError):
            # The plain socket's: TLS would say good-bye first, to somebody who does not listen.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _context(config: WebhookConfig) -> ssl.SSLContext:
    ca_file = config.ca_file
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise ConfigError(
            f"ca_file {str(ca_file)!r} cannot be used ({error})",
            where="webhook",
            expected="certificates, PEM",
            remedy="Name the file with the certificate of the server's authority.",
        ) from error


def _meaning(response: http.client.HTTPResponse) -> Answer:
    status = response.status
    why = f"the server answered {status} {response.reason}".rstrip()
    if 200 <= status < 300:
        return Answer("taken", why)
    if 300 <= status < 400:
        return Answer("never", f"{why}; redirects are not followed: set url to where it leads")
    if status >= 500 or status in _LATER:
        return Answer("later", why, _retry_after_s(response.headers.get("Retry-After")))
    return Answer("never", why)


def _retry_after_s(text: str | None) -> float:
    """Return the seconds of a Retry-After; a date, RFC 9110 section 10.2.3, is not read."""
    is_number = text is not None and text.isascii() and text.isdigit() and len(text) < 10
    return float(min(int(text or 0), _LONGEST_RETRY_AFTER_S)) if is_number else 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({error.verify_message})"
    return f"no answer ({error or type(error).__name__})"
