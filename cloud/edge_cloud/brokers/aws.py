"""AWS IoT Core: a policy document for devices, and one for the cloud's roles.

Source: AWS IoT Core developer guide, "Publish/Subscribe policy examples" and "MQTT topic
limits". MQTT wildcards mean nothing in a policy; ``*`` is its own. A device is a *thing*
whose name is its device id, and connects with it as client id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_cloud.brokers.access import Rule, device_rules
from edge_runtime.sync.topics import Topics

__all__ = ["MAX_FILTERS", "MAX_PAYLOAD_BYTES", "MAX_SLASHES", "device_policy", "role_policy"]

MAX_SLASHES = 7
"""Most slashes of a topic."""
MAX_PAYLOAD_BYTES = 128 * 1024
"""Largest payload."""
MAX_FILTERS = 8
"""Most filters of one SUBSCRIBE."""

_THING = "${iot:Connection.Thing.ThingName}"


def device_policy(topics: Topics, *, arn: str = "arn:aws:iot:*:*") -> dict[str, Any]:
    """Return the policy of every device.

    Args:
        topics: The topic tree.
        arn: ``arn:aws:iot:REGION:ACCOUNT``.
    """
    connect = _connect(f"{arn}:client/{_THING}")
    connect["Condition"]["Bool"] = {"iot:Connection.Thing.IsAttached": ["true"]}
    return _policy([connect, *_statements(device_rules(topics), arn)])


def role_policy(
    rules: Sequence[Rule], client_id: str, *, arn: str = "arn:aws:iot:*:*"
) -> dict[str, Any]:
    """Return the policy of a role of the cloud.

    Args:
        rules: What it may do.
        client_id: Who it is.
        arn: ``arn:aws:iot:REGION:ACCOUNT``.
    """
    connect = _connect(f"{arn}:client/{client_id}")
    return _policy([connect, *_statements(rules, arn)])


def _connect(client: str) -> dict[str, Any]:
    """Allow to connect, with a will and without keeping a session."""
    will = {"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["LastWill"]}}
    return {**_statement("iot:Connect", [client]), "Condition": will}


def _statements(rules: Sequence[Rule], arn: str) -> list[dict[str, Any]]:
    # No rule is for everybody here, so there is nothing to deny.
    written = [_pattern(rule) for rule in rules if rule.access == "write"]
    read = [_pattern(rule) for rule in rules if rule.access == "read"]
    return [
        _statement(["iot:Publish", "iot:RetainPublish"], [f"{arn}:topic/{one}" for one in written]),
        _statement("iot:Receive", [f"{arn}:topic/{one}" for one in read]),
        _statement("iot:Subscribe", [f"{arn}:topicfilter/{one}" for one in read]),
    ]


def _pattern(rule: Rule) -> str:
    return rule.named(_THING).replace("+", "*").replace("#", "*")


def _statement(action: str | list[str], resource: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}
