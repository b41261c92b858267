"""The MQTT transport: paho-mqtt, held on a short leash.

One network thread owns a fresh paho client per connection and is the only one
that calls it; ``publish`` and ``receive`` exchange messages with that thread
through two bounded queues. paho's own queue, reconnection and thread stay off.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import selectors
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import msgspec

from edge_runtime.backoff import Backoff
from edge_runtime.errors import ConfigError, EdgeError, MissingExtra
from edge_runtime.ports import Clock, Connected, Disconnected, Message, TransportEvent
from edge_runtime.sync.mailbox import Mailbox
from edge_runtime.sync.tls import check_served, link_context

if TYPE_CHECKING:
    from pathlib import Path

    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from edge_runtime.config import ProxyConfig, SyncConfig

__all__ = ["PahoStats", "PahoTransport"]

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_RANDOM = secrets.SystemRandom()

_QUEUE_LIMIT = 256
_UNACKED_LIMIT = 60
# So many messages, so long without a word about any of them: the broker has lost them.
_UNACKED_S = 60.0
_MAX_PACKET_BYTES = 256 * 1024
_HANDSHAKE_S = 10.0
_GOODBYE_S = 1.0
_POLL_S = 0.5
_IDLE_S = 5.0
# How often to look whether our certificate was renewed.
_CERTIFICATE_S = 5.0
_BACKOFF_FIRST_S = 0.25
_BACKOFF_LAST_S = 30.0
# Two processes with one identity would take the session from each other for ever. Not every
# broker says so (Mosquitto 2.0.11 does not), so a connection that did not last is a failure.
_SETTLED_S = 5.0
_TAKEN_OVER = 0x8E
_TAKEN_OVER_S = 300.0
_UNSUPPORTED_VERSION = (0x84, 0x01)
# Linux delays TCP acknowledgements by up to 40 ms, and a broker that leaves
# Nagle's algorithm on waits for them before it sends its next small packet.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None) if sys.platform == "linux" else None


class PahoStats(msgspec.Struct, frozen=True):
    """Counters since the transport was made.

    Attributes:
        connections_total: Times the link came up.
        failures_total: Times it was lost or did not come up.
        errors_total: Exceptions on the network thread, all logged.
        thread_restarts_total: Times the network thread was found dead.
    """

    connections_total: int = 0
    failures_total: int = 0
    errors_total: int = 0
    thread_restarts_total: int = 0


_Stamp = tuple[int, int]
"""Which content a file has: its number and the time of its last change."""

_Callback = Callable[Concatenate["PahoTransport", _P], None]


def _guarded(method: _Callback[_P]) -> _Callback[_P]:
    """Keep an exception in a callback from killing the network thread: log and count it."""

    def call(self: PahoTransport, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            self._note_error()

    return call


def _greeting(method: _Callback[_P]) -> _Callback[_P]:
    """Guard a callback without which the link would not come up: connect again if it fails."""

    def call(self: PahoTransport, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            self._note_error()
            self._reason = "greeting failed"
            self._has_failed = True

    return call


class PahoTransport:
    """A link to a broker over TCP or TLS, MQTT 5 with a fallback to 3.1.1.

    Delivery: at most once, as the port says. A message of QoS 1 from the
    broker is acknowledged when ``receive`` hands it out. Both queues are
    bounded: while the incoming one is full the socket is not read and the
    broker holds back (``block``); ``publish`` says False while the outgoing
    one is full (``drop_newest``). Sessions start clean.

    Thread: one of its own; every method is callable from any thread.

    Args:
        config: Where the broker is.
        client_id: The device id, or ``cloud-<role>``.
        clock: For time-outs.
        jitter: Returns a number from 0 to 1 that scales the back-off.
        at_step: Called when a message was handed to the broker (``publish``) and when
            the broker has confirmed one (``puback``); fault tests end the process there.

    Raises:
        ConfigError: A file for the log-in or for TLS cannot be used, or the link would be
            plain and leave this machine.
        TrustError: Others can read the private key.
    """

    def __init__(
        self,
        config: SyncConfig,
        client_id: str,
        clock: Clock,
        *,
        jitter: Callable[[], float] = _RANDOM.random,
        at_step: Callable[[str], None] | None = None,
    ) -> None:
        self._config = config
        self._at_step = at_step or (lambda _step: None)
        self._client_id = client_id
        self._clock = clock
        self._backoff = Backoff(_BACKOFF_FIRST_S, _BACKOFF_LAST_S, jitter=jitter)
        self._is_v5 = config.protocol == "5"
        self._mailbox = Mailbox(_QUEUE_LIMIT)
        self._outgoing: deque[Message] = deque()
        self._to_acknowledge: deque[int] = deque()
        self._bell = _Bell()
        self._closing = threading.Event()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._subscriptions: tuple[str, ...] = ()
        self._will: Message | None = None
        self._is_connected = False
        self._is_told = False
        self._up_ns = 0
        self._session = 0
        self._unacknowledged = 0
        self._confirmed_ns = 0
        self._reason = ""
        self._hold_off_s = 0.0
        self._refusal: int | None = None
        self._has_greeted = False
        self._has_failed = False
        self._has_fallen_back = False
        self._stats = PahoStats()
        self._shown: _Stamp | None = None
        self._look_ns = 0
        self._credentials()
        self._tls()

    def open(self, subscriptions: Sequence[str], will: Message | None) -> None:
        """Start connecting in the background.

        Args:
            subscriptions: Topic filters, renewed on every connection.
            will: Published by the broker when the link breaks.

        Raises:
            ConfigError: The password of a proxy cannot be read.
            MissingExtra: A proxy is configured and PySocks is not installed.
        """
        self._subscriptions = tuple(subscriptions)
        self._will = will
        if self._config.proxy is not None:
            _proxy_options(self._config.proxy)
        self._start()

    def publish(self, message: Message) -> bool:
        """Hand a message to the network thread; False while the link is down or the queue full."""
        self._watch()
        if not self._is_connected or len(self._outgoing) >= _QUEUE_LIMIT:
            return False
        self._outgoing.append(message)
        self._bell.ring()
        return True

    def receive(self, timeout_s: float) -> TransportEvent | None:
        """Return the next event, or None after ``timeout_s`` or a wake."""
        self._watch()
        entry = self._mailbox.get(timeout_s)
        if entry is None:
            return None
        event, token = entry
        if token:
            self._to_acknowledge.append(token)
            self._bell.ring()
        return event

    def wake(self) -> None:
        """Make a waiting ``receive`` return None at once."""
        self._mailbox.wake()

    def close(self) -> None:
        """Send what was handed over, disconnect cleanly and stop; safe to call twice."""
        self._closing.set()
        self._bell.ring()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_GOODBYE_S + _HANDSHAKE_S)
            if not thread.is_alive():
                self._bell.close()
        self._mailbox.wake()

    def stats(self) -> PahoStats:
        """Return the counters."""
        return self._stats

    # --- thread -----------------------------------------------------------------

    def _start(self) -> None:
        self._thread = threading.Thread(
            target=self._run, name=f"mqtt-{self._client_id}", daemon=True
        )
        self._thread.start()

    def _watch(self) -> None:
        """Start the network thread again if it died; a client library once did that silently."""
        with self._guard:
            if self._thread is None or self._thread.is_alive() or self._closing.is_set():
                return
            log.error("transport.thread_died", extra={"client": self._client_id})
            self._count(thread_restarts_total=1)
            self._set_lost("network thread died")
            self._start()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._reason, self._hold_off_s, self._refusal = "", 0.0, None
            self._has_greeted = self._has_failed = False
            try:
                self._connect_and_pump()
            except (OSError, EdgeError) as error:
                self._reason = f"cannot connect: {error}"
            except Exception:
                self._reason = "unexpected error"
                self._note_error()
            self._set_lost(self._reason or "connection lost")
            self._closing.wait(max(self._hold_off_s, self._backoff.next_s()))

    def _set_lost(self, reason: str) -> None:
        was_connected, self._is_connected = self._is_connected, False
        self._outgoing.clear()
        self._to_acknowledge.clear()
        self._count(failures_total=1)
        if was_connected:
            if self._clock.monotonic_ns() - self._up_ns >= _SETTLED_S * 1e9:
                self._backoff.reset()
            if not self._closing.is_set():
                log.warning("transport.lost", extra={"client": self._client_id, "reason": reason})
            self._mailbox.put(Disconnected(reason))
        elif not self._is_told and not self._closing.is_set():
            log.warning(
                "transport.not_connected", extra={"client": self._client_id, "reason": reason}
            )
        self._is_told = True

    def _count(self, **more: int) -> None:
        now = {name: getattr(self._stats, name) + extra for name, extra in more.items()}
        self._stats = msgspec.structs.replace(self._stats, **now)

    def _note_error(self) -> None:
        log.exception("transport.callback_failed", extra={"client": self._client_id})
        self._count(errors_total=1)

    # --- one connection -----------------------------------------------------------

    def _connect_and_pump(self) -> None:
        client = self._make_client()
        properties = _connect_properties() if self._is_v5 else None
        clean: dict[str, Any] = {"clean_start": True} if self._is_v5 else {}
        client.connect(
            self._config.host,
            self._config.port,
            self._config.keepalive_s,
            properties=properties,
            **clean,
        )
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            try:
                self._pump(client, selector)
            finally:
                _drop(client)
        self._fall_back()

    def _pump(self, client: Client, selector: selectors.BaseSelector) -> None:
        deadline_ns = self._clock.monotonic_ns() + int(_HANDSHAKE_S * 1e9)
        watched = _Watched(selector)
        while (sock := client.socket()) is not None:
            if self._closing.is_set():
                self._say_goodbye(client)
                return
            if self._has_failed:
                return
            if not self._is_connected and self._clock.monotonic_ns() > deadline_ns:
                self._reason = "no answer from the broker"
                return
            if self._is_ignored():
                self._reason = "the broker confirms nothing"
                return
            if self._is_certificate_old():
                self._reason = "our certificate was renewed"
                self._say_goodbye(client)
                return
            self._flush(client)
            if client.socket() is not sock:
                # Writing has shown that the broker is gone.
                break
            watched.expect(sock, read=not self._mailbox.is_full, write=client.want_write())
            self._serve(client, sock, watched.wait(self._patience_s()))
        watched.forget()

    def _is_ignored(self) -> bool:
        """Whether no message can be sent any more, because none was confirmed for long."""
        is_full = self._is_connected and self._unacknowledged >= _UNACKED_LIMIT
        waited_ns = self._clock.monotonic_ns() - self._confirmed_ns
        return is_full and waited_ns > _UNACKED_S * 1e9

    def _is_certificate_old(self) -> bool:
        """Whether the file has another certificate than the one that this session was opened with.

        A broker judges a certificate when a session begins: one that goes on for months would
        outlive it, and nobody would notice that the next one is no good.
        """
        now_ns = self._clock.monotonic_ns()
        if not self._is_connected or now_ns < self._look_ns:
            return False
        self._look_ns = now_ns + int(_CERTIFICATE_S * 1e9)
        return _stamp(self._config.cert_file) not in (None, self._shown)

    def _patience_s(self) -> float:
        """How long to wait for the broker or the bell: both wake; time alone is the keep-alive."""
        if not self._is_connected or self._mailbox.is_full:
            return _POLL_S
        return min(_IDLE_S, self._config.keepalive_s / 4)

    def _serve(self, client: Client, sock: Any, ready: int) -> None:
        self._bell.silence()
        if ready & selectors.EVENT_READ:
            client.loop_read()
            while isinstance(sock, ssl.SSLSocket) and client.socket() and sock.pending():
                client.loop_read()
        if ready & selectors.EVENT_WRITE:
            client.loop_write()
        client.loop_misc()
        if _QUICKACK is not None and client.socket() is not None:
            # The kernel forgets it after every exchange.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _flush(self, client: Client) -> None:
        """Hand acknowledgements and messages to paho, never more than it may have in flight."""
        while self._to_acknowledge:
            token = self._to_acknowledge.popleft()
            if token >> 16 == self._session:
                client.ack(token & 0xFFFF, 1)
        while self._outgoing and self._is_connected and self._unacknowledged < _UNACKED_LIMIT:
            message = self._outgoing.popleft()
            if not self._unacknowledged:
                self._confirmed_ns = self._clock.monotonic_ns()
            self._unacknowledged += 1
            client.publish(message.topic, message.payload, message.qos, message.retain)
            self._at_step("publish")

    def _say_goodbye(self, client: Client) -> None:
        deadline_ns = self._clock.monotonic_ns() + int(_GOODBYE_S * 1e9)
        while self._is_connected and client.socket() and self._clock.monotonic_ns() < deadline_ns:
            self._flush(client)
            if not self._unacknowledged and not self._outgoing:
                break
            client.loop(timeout=0.05)
        client.disconnect()
        client.loop_write()

    def _fall_back(self) -> None:
        """Try the other protocol version next, if the broker hung up before it said hello."""
        is_about_version = self._refusal is None or self._refusal in _UNSUPPORTED_VERSION
        if self._has_greeted or not is_about_version or self._closing.is_set():
            return
        if self._config.protocol != "5":
            return
        self._is_v5 = not self._is_v5
        if not self._has_fallen_back:
            # Whoever hangs up on both versions is not tried more often for that.
            self._backoff.reset()
        self._has_fallen_back = True
        log.info("transport.protocol_changed", extra={"mqtt": "5" if self._is_v5 else "3.1.1"})

    # --- paho ---------------------------------------------------------------------

    def _make_client(self) -> Client:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5 if self._is_v5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
            clean_session=None if self._is_v5 else True,
        )
        client.max_inflight_messages = _UNACKED_LIMIT
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        self._set_identity(client)
        return client

    def _set_identity(self, client: Client) -> None:
        username, password = self._credentials()
        if username is not None:
            client.username_pw_set(username, password)
        if self._config.proxy is not None:
            client.proxy_set(**_proxy_options(self._config.proxy))
        # Before it is read: what is written meanwhile is read again.
        self._shown = _stamp(self._config.cert_file)
        context = self._tls()
        if context is not None:
            client.tls_set_context(context)
        if self._will is not None:
            will = self._will
            client.will_set(will.topic, will.payload, will.qos, will.retain)

    def _credentials(self) -> tuple[str | None, str | None]:
        return self._config.username, _secret(self._config.password_file)

    def _tls(self) -> ssl.SSLContext | None:
        """Read the files anew: a certificate may have been renewed since the last connection."""
        return link_context(self._config, now_s=self._clock.now_ns() / 1e9)

    def _on_socket_open(self, _client: Client, _userdata: object, sock: Any) -> None:
        """Look at the connection before anything is sent; an exception gives it up."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        check_served(sock, self._config.cert_file)

    @_greeting
    def _on_connect(
        self, client: Client, _userdata: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        if reason.is_failure:
            self._reason = f"broker refused: {reason}"
            self._refusal = reason.value
            return
        self._has_greeted = True
        self._has_fallen_back = False
        self._session += 1
        self._unacknowledged = 0
        if self._subscriptions:
            client.subscribe([(topic, 1) for topic in self._subscriptions])
        else:
            self._come_up()

    def _come_up(self) -> None:
        """Tell that the link is up: from now on the broker keeps what others send here."""
        self._is_connected = True
        self._is_told = False
        self._up_ns = self._clock.monotonic_ns()
        self._count(connections_total=1)
        log.info("transport.connected", extra={"client": self._client_id})
        self._mailbox.put(Connected())

    @_greeting
    def _on_subscribe(
        self, client: Client, _userdata: object, _mid: int, reasons: list[ReasonCode], *_: object
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            log.error("transport.subscription_refused", extra={"reasons": refused})
            self._reason = f"subscription refused: {refused}"
            self._hold_off_s = _BACKOFF_LAST_S
            client.disconnect()
        elif not self._is_connected:
            self._come_up()

    @_guarded
    def _on_message(self, client: Client, _userdata: object, message: MQTTMessage) -> None:
        if not self._is_connected:
            # A broker may send what it keeps before it confirms the subscription.
            self._come_up()
        token = self._session << 16 | message.mid if message.qos else 0
        try:
            topic = message.topic
        except UnicodeDecodeError:
            client.ack(message.mid, message.qos)
            raise
        self._mailbox.put(
            Message(topic, bytes(message.payload), message.qos, message.retain), token
        )

    @_guarded
    def _on_publish(self, *_: object) -> None:
        self._unacknowledged -= 1
        self._confirmed_ns = self._clock.monotonic_ns()
        self._at_step("puback")

    @_guarded
    def _on_disconnect(
        self, _client: Client, _userdata: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        self._reason = self._reason or str(reason)
        if reason.value == _TAKEN_OVER:
            log.error("transport.session_taken_over", extra={"client": self._client_id})
            self._hold_off_s = _TAKEN_OVER_S


class _Bell:
    """Wakes a thread that waits in a selector; ringing twice is ringing once."""

    def __init__(self) -> None:
        self._far, self._near = socket.socketpair()
        self._far.setblocking(False)
        self._near.setblocking(False)

    def fileno(self) -> int:
        return self._near.fileno()

    def ring(self) -> None:
        # A full pipe has enough rings in it, and a closed one needs none.
        with contextlib.suppress(OSError):
            self._far.send(b"!")

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._near.recv(4096)

    def close(self) -> None:
        self._far.close()
        self._near.close()


class _Watched:
    """The one broker socket in a selector, with the events wanted just now."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._sock: Any = None
        self._events = 0

    def expect(self, sock: Any, *, read: bool, write: bool) -> None:
        events = selectors.EVENT_READ * read | selectors.EVENT_WRITE * write
        if (sock, events) == (self._sock, self._events):
            return
        self.forget()
        if events:
            self._selector.register(sock, events)
            self._sock, self._events = sock, events

    def forget(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self._sock)
        self._sock, self._events = None, 0

    def wait(self, timeout_s: float) -> int:
        """Return the ready events of the broker socket."""
        ready = self._selector.select(timeout_s)
        return sum(events for key, events in ready if key.fileobj is self._sock)


def _stamp(path: Path | None) -> _Stamp | None:
    """Return which content a file has at present; None for no file, or one that is not there."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _secret(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"file cannot be read: {error}",
            where="sync",
            expected="a readable password_file",
        ) from error


def _proxy_options(proxy: ProxyConfig) -> dict[str, Any]:
    """Return what paho passes on to PySocks; a missing PySocks would be silently no proxy."""
    try:
        import socks
    except ImportError as error:
        raise MissingExtra.of("sync.proxy", "PySocks", "proxy") from error
    return {
        "proxy_type": socks.HTTP if proxy.kind == "http" else socks.SOCKS5,
        "proxy_addr": proxy.host,
        "proxy_port": proxy.port,
        "proxy_rdns": True,
        "proxy_username": proxy.username,
        "proxy_password": _secret(proxy.password_file),
    }


def _drop(client: Client) -> None:
    sock = client.socket()
    if sock is not None:
        sock.close()


def _connect_properties() -> Properties:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.ReceiveMaximum = _QUEUE_LIMIT
    properties.MaximumPacketSize = _MAX_PACKET_BYTES
    return properties
