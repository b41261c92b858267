"""The connection to a broker: paho-mqtt, on a thread of its own."""

from __future__ import annotations

import logging
import secrets
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.backoff import Backoff
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import Clock
from edge_runtime.sources.mqtt.inbox import Arrival, Inbox

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

    from edge_runtime.sources.mqtt.config import MqttConfig

__all__ = ["Link"]

log = logging.getLogger(__name__)

_POLL_S = 1.0
_CONNECT_S = 5.0
_GOODBYE_S = 1.0
_BACKOFF_S = (0.25, 30.0)
_PROTOCOL_ERROR = 2  # paho.mqtt.enums.MQTTErrorCode.MQTT_ERR_PROTOCOL
# What no waiting mends; MQTT 5.0, table 3-1. paho gives a 3.1.1 broker's answers these numbers too.
_REMEDIES = {
    0x84: "Set protocol to the version that the broker speaks.",
    0x85: "Choose another client_id, or leave it out.",
    0x86: "Check username and password_file.",
    0x87: "Check username and password_file, and what the broker allows this user.",
    0x8A: "The broker has banned this client: ask whoever runs it.",
    0x8C: "Check username and password_file; only passwords are supported.",
}


class Link:
    """Keeps subscriptions alive and hands their messages to an inbox.

    A broker that is away is counted once (``broker_away``) and tried again with
    jittered back-off; what no waiting mends, such as a wrong password, fails the
    inbox and ends the thread. Sessions start clean: what is published while the link
    is down is not delivered.

    Args:
        config: Where the broker is.
        topics: Filters to subscribe to.
        inbox: Where messages go.
        clock: Stamps arrivals.
        password: From the password file.

    Raises:
        ConfigError: The CA file cannot be used.
    """

    def __init__(
        self,
        config: MqttConfig,
        topics: Sequence[str],
        inbox: Inbox,
        clock: Clock,
        *,
        password: str | None = None,
    ) -> None:
        self._config = config
        self._topics = topics
        self._inbox = inbox
        self._clock = clock
        self._backoff = Backoff(*_BACKOFF_S)
        self._closing = threading.Event()
        self._is_connected = False
        self._is_away = False
        self._has_failed = False
        self._reason = ""
        self._where = f"mqtt://{config.host}:{config.port}"
        self._client = self._made_client(password)
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{config.host}", daemon=True)

    def start(self) -> None:
        """Start connecting in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Say good-bye; the thread ends soon, also where it is still connecting."""
        self._closing.set()
        self._client.disconnect()
        if self._thread.is_alive():
            self._thread.join(_GOODBYE_S)

    # --- thread -----------------------------------------------------------------

    def _run(self) -> None:
        while not (self._closing.is_set() or self._has_failed):
            self._reason = ""
            try:
                self._listen()
            except ssl.SSLCertVerificationError as error:
                self._fail(
                    f"the broker's certificate is not trusted ({error.verify_message})",
                    "Let ca_file hold the certificate that signed it, and host its name.",
                )
            except OSError as error:
                self._reason = str(error)
            except Exception as error:
                log.exception("mqtt.thread_failed", extra={"broker": self._where})
                self._fail(f"the network thread failed ({error!r})", "Report it with the log.")
            if not (self._closing.is_set() or self._has_failed):
                self._note_away()
                self._closing.wait(self._backoff.next_s())

    def _listen(self) -> None:
        """Connect and hand over messages until the connection ends."""
        config, client = self._config, self._client
        clean: dict[str, Any] = {"clean_start": True} if config.protocol == "5" else {}
        self._is_connected = False
        try:
            client.connect(config.host, config.port, config.keepalive_s, **clean)
            result = 0
            while not (self._closing.is_set() or result) and client.socket() is not None:
                result = client.loop(_POLL_S)
        finally:
            client.disconnect()
        if result == _PROTOCOL_ERROR and not (self._is_connected or self._reason):
            # A 3.1.1 broker's "unacceptable version" reaches no callback of paho.
            self._fail("the broker refused: unsupported protocol version", _REMEDIES[0x84])

    def _note_away(self) -> None:
        if not self._is_away:
            self._is_away = True
            self._inbox.note("broker_away")
            # Without any answer the version may be wrong: some brokers just hang up.
            why = self._reason or "it hung up before it answered; perhaps protocol is wrong"
            log.warning("mqtt.lost", extra={"broker": self._where, "why": why})

    def _fail(self, what: str, remedy: str) -> None:
        self._has_failed = True
        self._inbox.fail(
            SourceError(what, where=self._where, expected="a subscription", remedy=remedy)
        )

    # --- paho ---------------------------------------------------------------------

    def _made_client(self, password: str | None) -> Client:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        config = self._config
        is_v5 = config.protocol == "5"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=config.client_id or f"edge-{secrets.token_hex(8)}",
            protocol=mqtt.MQTTv5 if is_v5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
            clean_session=None if is_v5 else True,
        )
        client.connect_timeout = _CONNECT_S
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        if config.username is not None:
            client.username_pw_set(config.username, password)
        if config.ca_file is not None:
            self._trust(client, config.ca_file)
        return client

    def _trust(self, client: Client, ca_file: Path) -> None:
        try:
            client.tls_set(ca_certs=str(ca_file))
        except OSError as error:
            raise ConfigError(
                f"ca_file {str(ca_file)!r} cannot be used ({error})",
                where=self._where,
                expected="certificates, PEM",
                remedy="Name the file with the certificate of the broker's authority.",
            ) from error

    def _on_connect(
        self, client: Client, _userdata: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        if reason.is_failure:
            self._reason = f"the broker refused: {reason}"
            if reason.value in _REMEDIES:
                self._fail(self._reason, _REMEDIES[reason.value])
            return
        qos: int = self._config.qos
        client.subscribe([(topic, qos) for topic in self._topics])

    def _on_subscribe(
        self, client: Client, _userdata: object, _mid: int, reasons: list[ReasonCode], *_: object
    ) -> None:
        pairs = zip(self._topics, reasons, strict=True)
        refused = [f"{topic} ({reason})" for topic, reason in pairs if reason.is_failure]
        if refused:
            self._fail(
                f"the broker refused the subscription to {', '.join(refused)}",
                "Let the broker allow this user to read these topics.",
            )
            client.disconnect()
            return
        self._backoff.reset()
        self._is_connected, self._is_away = True, False
        log.info("mqtt.subscribed", extra={"broker": self._where})

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        if message.retain and not self._config.retained:
            self._inbox.note("retained")
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._inbox.note("unparsable")
            return
        self._inbox.put(Arrival(topic, bytes(message.payload), self._clock.monotonic_ns()))

    def _on_disconnect(
        self, _client: Client, _userdata: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        if self._is_connected:
            self._reason = self._reason or f"connection lost ({reason})"
