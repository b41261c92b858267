"""The broker: reached, encrypted, and willing to let this device in."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.config import SyncConfig
from edge_runtime.doctor.finding import Finding
from edge_runtime.errors import ConfigError, TrustError
from edge_runtime.sync.tls import link_context

__all__ = ["look_at_link"]

_LIMIT_S = 5.0
_SOON_DAYS = 14


def look_at_link(sync: SyncConfig, limit_s: float = _LIMIT_S) -> Iterator[Finding]:
    """Say how far the way to the broker is open: name, port, TLS, log-in.

    Args:
        sync: The link as configured.
        limit_s: For each step.
    """
    where = f"{sync.host}:{sync.port}"
    try:
        with socket.create_connection((sync.host, sync.port), limit_s) as plain:
            context = link_context(sync, now_s=time.time())
            if context is not None:
                yield _tls(plain, sync, context)
    except (ConfigError, TrustError) as error:
        yield Finding("tls", "problem", error.what, error.remedy)
        return
    except socket.gaierror as error:
        yield Finding(
            "broker", "problem", f"{sync.host}: {error.strerror}", "Check the name, and DNS."
        )
        return
    except OSError as error:
        yield Finding(
            "broker",
            "problem",
            f"{where} cannot be reached: {error.strerror or error}",
            "Check that the broker runs and that no firewall is between; rows wait until then.",
        )
        return
    if sync.cert_file is None:
        yield _log_in(sync, where, limit_s)
    else:
        # A broker that names sessions after certificates would end the running device's.
        what = f"{where} was reached with this device's certificate; nobody logged in"
        yield Finding("broker", "ok", what)


def _tls(plain: socket.socket, sync: SyncConfig, context: ssl.SSLContext) -> Finding:
    try:
        with context.wrap_socket(plain, server_hostname=sync.host) as secure:
            return _certificate(secure)
    except (ssl.SSLError, OSError) as error:
        return Finding(
            "tls",
            "problem",
            f"the broker's certificate is not accepted: {error}",
            f"{sync.ca_file or 'The system'} must know the authority that signed it, for the "
            f"name {sync.host}; "
            "also check this machine's clock.",
        )


def _certificate(secure: ssl.SSLSocket) -> Finding:
    told = (secure.getpeercert() or {}).get("notAfter", "")
    ends = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(told)), datetime.UTC)
    left = (ends - datetime.datetime.now(datetime.UTC)).days
    what = f"{secure.version()}, certificate valid for {left} more days"
    if left < _SOON_DAYS:
        return Finding("tls", "warning", what, "Renew the broker's certificate.")
    return Finding("tls", "ok", what)


def _log_in(sync: SyncConfig, where: str, limit_s: float) -> Finding:
    """Connect as a client without a name of its own, so that no running device is disturbed."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        protocol=mqtt.MQTTv5 if sync.protocol == "5" else mqtt.MQTTv311,
    )
    if sync.username is not None:
        secret = Path(sync.password_file).read_text().strip() if sync.password_file else None
        client.username_pw_set(sync.username, secret)
    context = link_context(sync, now_s=time.time())
    if context is not None:
        client.tls_set_context(context)
    answered, answers = threading.Event(), list[str]()

    def on_connect(
        _client: object, _data: object, _flags: object, code: object, *_: object
    ) -> None:
        answers.append(str(code))
        answered.set()

    client.on_connect = on_connect
    try:
        client.connect(sync.host, sync.port, keepalive=30)
        client.loop_start()
        answered.wait(limit_s)
        client.disconnect()
        client.loop_stop()
    except (OSError, ValueError) as error:
        answers.append(str(error))
    if answers[:1] == ["Success"]:
        return Finding("broker", "ok", f"{where} lets this device in, MQTT {sync.protocol}")
    said = answers[0] if answers else f"no answer within {limit_s:g} s"
    return Finding(
        "broker",
        "problem",
        f"{where}: {said}",
        "Check sync.username, sync.password_file and sync.protocol, and the broker's log.",
    )
