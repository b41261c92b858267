"""EMQX 5: listener, TLS, access list, limits.

Source: EMQX 5 documentation, "Configuration", "SSL/TLS listener" and "ACL file". It is
checked against that alone: no EMQX runs in our tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge_cloud.brokers.access import MAX_PACKET_BYTES, Rule, device_rules
from edge_runtime.sync.topics import Topics

__all__ = ["ACL_NAME", "access_list", "configuration"]

ACL_NAME = "acl.conf"

_VERDICTS = {
    "write": ("allow", "publish"),
    "read": ("allow", "subscribe"),
    "deny": ("deny", "all"),
}


def configuration(folder: Path, *, port: int = 8883, bind: str | None = None) -> str:
    """Return what belongs into ``emqx.conf``, in HOCON.

    Args:
        folder: With certificates and access list, as the broker sees it.
        port: TLS port.
        bind: Address of it; None for all.
    """
    return f"""\
# Written by edge-runtime broker-config emqx; include it in emqx.conf.
listeners.tcp.default.enable = false
listeners.ws.default.enable = false
listeners.wss.default.enable = false
listeners.ssl.default {{
  bind = "{f"{bind}:" if bind else ""}{port}"
  tcp_options.nodelay = true
  ssl_options {{
    cacertfile = "{folder / "ca.pem"}"
    certfile = "{folder / "server.pem"}"
    keyfile = "{folder / "server.key"}"
    versions = ["tlsv1.3", "tlsv1.2"]
    verify = verify_peer
    fail_if_no_peer_cert = true
  }}
}}
mqtt {{
  peer_cert_as_username = cn
  peer_cert_as_clientid = cn
  max_packet_size = {MAX_PACKET_BYTES // 1024}KB
  max_inflight = 100
  max_mqueue_len = 1000
  max_topic_levels = 8
}}
authorization {{
  no_match = deny
  deny_action = ignore
  cache.enable = false
  sources = [
    {{ type = file, enable = true, path = "{folder / ACL_NAME}" }}
  ]
}}
"""


def access_list(topics: Topics, roles: Mapping[str, Sequence[Rule]], revoked: Iterable[str]) -> str:
    """Return ``acl.conf``: the first rule that matches decides.

    Args:
        topics: The topic tree.
        roles: What each of the cloud's own links may do, by client id.
        revoked: Devices that may do nothing any more.
    """
    lines = ["%% Written by edge-runtime broker-config emqx; written again, it is replaced."]
    lines += [f'{{deny, {{user, "{device}"}}, all, ["#"]}}.' for device in sorted(revoked)]
    for role, rules in roles.items():
        lines += [_line(rule, f'{{user, "{role}"}}') for rule in rules]
    lines += [_line(rule, "all") for rule in device_rules(topics)]
    return "\n".join([*lines, "{deny, all}."]) + "\n"


def _line(rule: Rule, who: str) -> str:
    verdict, action = _VERDICTS[rule.access]
    topic = rule.named("${username}")
    return f'{{{verdict}, {who}, {action}, ["{topic}"]}}.'
