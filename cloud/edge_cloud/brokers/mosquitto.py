"""Mosquitto 2.0 and newer: listener, TLS, access list, limits.

The name in a client's certificate is its user name and its client id, so that nobody can
take another's session. Mosquitto reads its access list again when told to (SIGHUP), and goes
by it in open sessions too; its list of revoked certificates is for new connections. So a
revoked device stands in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from edge_cloud.brokers.access import MAX_PACKET_BYTES, Rule, device_rules
from edge_runtime.sync.topics import Topics

__all__ = ["ACL_NAME", "REVOKED_NAME", "Listener", "access_list", "configuration"]

ACL_NAME = "acl"
REVOKED_NAME = "revoked.pem"


class Listener(msgspec.Struct, frozen=True):
    """Where Mosquitto listens and keeps things.

    Attributes:
        folder: With certificates and access list, as the broker sees it.
        data: Where it keeps sessions and retained messages.
        port: TLS port.
        bind: Address of it; None for all.
        loopback_port: A plain port for programs of the broker's machine, which may do what
            any of the roles may; None for none.
    """

    folder: Path
    data: Path
    port: int = 8883
    bind: str | None = None
    loopback_port: int | None = None


def configuration(listener: Listener) -> str:
    """Return ``mosquitto.conf``."""
    folder = listener.folder
    lines = [
        "# Written by edge-runtime broker-config mosquitto; written again, it is replaced.",
        "per_listener_settings true",
        "",
        f"listener {listener.port}{f' {listener.bind}' if listener.bind else ''}",
        f"cafile {folder / 'ca.pem'}",
        f"certfile {folder / 'server.pem'}",
        f"keyfile {folder / 'server.key'}",
        f"crlfile {folder / REVOKED_NAME}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        "allow_zero_length_clientid false",
        f"acl_file {folder / ACL_NAME}",
        *_loopback(listener),
        "",
        "set_tcp_nodelay true",
        f"max_packet_size {MAX_PACKET_BYTES}",
        "max_inflight_messages 100",
        "max_queued_messages 1000",
        "max_queued_bytes 33554432",
        "persistent_client_expiration 14d",
        "",
        "persistence true",
        f"persistence_location {listener.data}/",
        "autosave_interval 60",
        "",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    return "\n".join(lines) + "\n"


def _loopback(listener: Listener) -> list[str]:
    if listener.loopback_port is None:
        return []
    return [
        "",
        f"listener {listener.loopback_port} 127.0.0.1",
        "allow_anonymous true",
        f"acl_file {listener.folder / ACL_NAME}",
    ]


def access_list(
    topics: Topics,
    roles: Mapping[str, Sequence[Rule]],
    revoked: Iterable[str],
    *,
    has_loopback: bool = False,
) -> str:
    """Return the access list.

    Args:
        topics: The topic tree.
        roles: What each of the cloud's own links may do, by client id.
        revoked: Devices that may do nothing any more.
        has_loopback: Whether a client without a name is a program of the broker's machine.
    """
    lines = ["# Written by edge-runtime broker-config mosquitto; written again, it is replaced."]
    if has_loopback:
        lines += ["", "# Without a name: on the loopback listener alone."]
        lines += dict.fromkeys(
            _line("topic", rule)
            for rules in roles.values()
            for rule in rules
            if rule.access != "deny"
        )
    for role, rules in roles.items():
        lines += ["", f"user {role}", *(_line("topic", rule, role) for rule in rules)]
    for device in sorted(revoked):
        lines += ["", f"user {device}", "topic deny #"]
    lines += ["", "# Everybody with a certificate; %u is the name in it."]
    lines += [_line("pattern", rule, "%u") for rule in device_rules(topics)]
    return "\n".join(lines) + "\n"


def _line(kind: str, rule: Rule, name: str = "") -> str:
    return f"{kind} {rule.access} {rule.named(name)}"
