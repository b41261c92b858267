"""The cloud's own links to its broker: what they are called, and what they show.

A client id is also the name in the certificate, so each link that may stand beside
another has a name of its own.
"""

from __future__ import annotations

import msgspec

from edge_cloud.brokers.access import Rule, bridge_rules, home_assistant_rules, role_rules
from edge_cloud.config import CloudConfig, IngestConfig
from edge_cloud.identity.authority import Authority
from edge_runtime.config import SyncConfig
from edge_runtime.config.hosts import is_loopback
from edge_runtime.ports import Clock
from edge_runtime.sync.topics import Topics

__all__ = [
    "ASK",
    "BRIDGE",
    "HOME_ASSISTANT",
    "INGEST",
    "PROBE",
    "REGISTRY",
    "client_ids",
    "link_of",
    "member_id",
    "roles_of",
]

INGEST, REGISTRY, PROBE, ASK = "cloud-ingest", "cloud-registry", "cloud-probe", "cloud-ask"
BRIDGE, HOME_ASSISTANT = "cloud-homeassistant-bridge", "cloud-homeassistant"


def member_id(number: int) -> str:
    """Return the client id of one of several ingesters."""
    return f"{INGEST}-{number}"


def client_ids(ingest: IngestConfig) -> tuple[str, ...]:
    """Return the client id of every link that a cloud may have to its devices."""
    alone = (INGEST, REGISTRY, ASK)
    if ingest.processes == 1:
        return alone
    return (*alone, PROBE, *map(member_id, range(ingest.processes)))


def roles_of(config: CloudConfig) -> dict[str, tuple[Rule, ...]]:
    """Return what each link of a cloud may do on its broker, by client id.

    The bridge and Home Assistant itself are among them only where the cloud names them.
    """
    roles = dict.fromkeys(client_ids(config.ingest), role_rules(Topics(config.root)))
    if config.homeassistant is not None:
        names = config.homeassistant.names(config.root)
        roles |= {BRIDGE: bridge_rules(names), HOME_ASSISTANT: home_assistant_rules(names)}
    return roles


def link_of(config: CloudConfig, client_id: str, clock: Clock) -> SyncConfig:
    """Complete the link by a certificate of this cloud's own authority, if it has one.

    Args:
        config: Of the cloud.
        client_id: Who connects.
        clock: Says from when certificates are good.

    Raises:
        ConfigError: There is no authority yet.
        TrustError: Others can read its key.
    """
    broker, identity = config.broker, config.identity
    is_plain = broker.tls == "off" or (broker.tls is None and is_loopback(broker.host))
    if identity is None or is_plain or broker.cert_file is not None:
        return broker
    role = Authority(config.authority, clock).role(client_id, days=identity.certificate_days)
    return msgspec.structs.replace(
        broker,
        cert_file=role.certificate,
        key_file=role.key,
        ca_file=broker.ca_file or role.authority,
    )
