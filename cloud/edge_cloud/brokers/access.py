"""Who may write and read what on a broker, for every kind of broker alike."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.sync.topics import Topics

__all__ = ["DEVICE", "MAX_PACKET_BYTES", "Rule", "device_rules", "role_rules"]

MAX_PACKET_BYTES = 128 * 1024
"""Largest MQTT packet: a payload of 96 KiB, its topic and properties."""

DEVICE = "\0"
"""Stands in a rule where a broker puts the client's own name."""


class Rule(msgspec.Struct, frozen=True):
    """One permission.

    Attributes:
        access: Publish (``write``) or receive (``read``).
        filter: Topic filter; `DEVICE` stands for the client's name.
    """

    access: Literal["write", "read"]
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
