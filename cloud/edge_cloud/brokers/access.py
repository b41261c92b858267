"""Who may write and read what on a broker, for every kind of broker alike."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_cloud.homeassistant.discovery import Names
from edge_runtime.sync.topics import Topics

__all__ = [
    "DEVICE",
    "MAX_PACKET_BYTES",
    "Rule",
    "bridge_rules",
    "device_rules",
    "home_assistant_rules",
    "role_rules",
]

MAX_PACKET_BYTES = 128 * 1024
"""Largest MQTT packet: a payload of 96 KiB, its topic and properties."""

DEVICE = "\0"
"""Stands in a rule where a broker puts the client's own name."""


class Rule(msgspec.Struct, frozen=True):
    """One permission, or what is no permission.

    Attributes:
        access: Publish (``write``), receive (``read``), or neither of them (``deny``), although
            a rule for everybody allows it.
        filter: Topic filter; `DEVICE` stands for the client's name.
    """

    access: Literal["write", "read", "deny"]
    filter: str

    def named(self, name: str) -> str:
        """Return the filter with a broker's word for the client's name."""
        return self.filter.replace(DEVICE, name)


def device_rules(topics: Topics) -> tuple[Rule, ...]:
    """Return what every device may do: write its own, read its own, and hear the cloud."""
    root = f"{topics.root}/1"
    return (
        Rule("write", f"{root}/d/{DEVICE}/up/#"),
        Rule("read", f"{root}/d/{DEVICE}/dn/#"),
        Rule("read", f"{root}/all/#"),
    )


def role_rules(topics: Topics) -> tuple[Rule, ...]:
    """Return what a role of the cloud may do."""
    root = f"{topics.root}/1"
    return (
        Rule("read", f"{root}/d/+/up/#"),
        Rule("write", f"{root}/d/+/dn/#"),
        Rule("write", f"{root}/all/#"),
        Rule("read", f"{root}/all/#"),
    )


def bridge_rules(names: Names) -> tuple[Rule, ...]:
    """Return what the bridge to Home Assistant may do: hear how devices are, and show it."""
    topics = Topics(names.root)
    return (
        Rule("read", topics.every_up("life")),
        Rule("read", topics.every_up("last")),
        Rule("read", names.birth),
        Rule("write", names.config("+")),
        Rule("write", names.shown),
        *_denials(topics),
    )


def home_assistant_rules(names: Names) -> tuple[Rule, ...]:
    """Return what Home Assistant may do: read what it is shown, and say that it has come up."""
    return (
        Rule("read", names.discoveries),
        Rule("read", names.shown),
        Rule("write", names.birth),
        *_denials(Topics(names.root)),
    )


def _denials(topics: Topics) -> tuple[Rule, ...]:
    """Take back what brokers let everybody with a certificate do."""
    return tuple(Rule("deny", rule.filter) for rule in device_rules(topics))
