"""What Home Assistant has to be told so that a device appears by itself.

Source: Home Assistant documentation, "MQTT", section "Device discovery payload"
(2024.12 and newer), and "MQTT Binary sensor", "MQTT Sensor", "MQTT Event".
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.sync.messages import Answers, Life
from edge_runtime.types import check_name
from edge_runtime.version import __version__

__all__ = ["Names", "discovery_of", "slug"]


class Names(msgspec.Struct, frozen=True):
    """Topics of the bridge.

    Attributes:
        root: First level of the sync protocol's topics.
        prefix: Where Home Assistant looks for discoveries.
    """

    root: str = "er"
    prefix: str = "homeassistant"

    def __post_init__(self) -> None:
        check_name(self.root, "topic root")
        check_name(self.prefix, "discovery prefix")
        if self.root == self.prefix:
            raise ConfigError(
                f"devices and discoveries are both below {self.root!r}",
                where="homeassistant",
                expected="a discovery prefix that is not the root of the devices' topics",
                remedy="Name another prefix, here and in Home Assistant: it may read all below it.",
            )

    @property
    def birth(self) -> str:
        """Where Home Assistant says that it has come up."""
        return f"{self.prefix}/status"

    @property
    def bridge(self) -> str:
        """Whether the bridge is there."""
        return f"{self.root}/1/ha/bridge"

    @property
    def discoveries(self) -> str:
        """Filter for every announcement, of whatever kind Home Assistant asks for."""
        return f"{self.prefix}/#"

    @property
    def shown(self) -> str:
        """Filter for all that is shown of devices."""
        return f"{self.root}/1/ha/#"

    def config(self, device: str) -> str:
        """Where a device is announced; ``+`` makes it a filter for all of them."""
        return f"{self.prefix}/device/{device}/config"

    def availability(self, device: str) -> str:
        """Whether a device is there."""
        return f"{self.root}/1/ha/d/{device}/availability"

    def state(self, device: str, stream: str) -> str:
        """The newest answer of a stream."""
        return f"{self.root}/1/ha/d/{device}/state/{stream}"

    def event(self, device: str, stream: str) -> str:
        """Labels that start and end."""
        return f"{self.root}/1/ha/d/{device}/event/{stream}"


def discovery_of(life: Life, names: Names) -> dict[str, Any]:
    """Return the discovery payload of one device: a sensor per label, and its decisions."""
    models = sorted({answers.model for answers in life.streams.values()})
    return {
        "device": {
            "identifiers": [f"edge-runtime-{life.device}"],
            "name": life.device,
            "manufacturer": "edge-runtime",
            "model": ", ".join(models),
            "sw_version": life.runtime,
        },
        "origin": {"name": "edge-runtime", "sw_version": __version__},
        "availability": [
            {"topic": names.bridge},
            {"topic": names.availability(life.device)},
        ],
        "availability_mode": "all",
        "components": {
            key: {**component, "unique_id": f"edge-runtime-{life.device}-{key}"}
            for stream, answers in life.streams.items()
            for key, component in _components(life.device, stream, answers, names).items()
        },
    }


def slug(label: str) -> str:
    """Return a label as a key that templates and ids can hold, different for each label."""
    plain = re.sub(r"[^a-z0-9_]+", "_", label.lower())[:48]
    return plain if label and plain == label else f"{plain}_{zlib.crc32(label.encode()):08x}"


def _components(
    device: str, stream: str, answers: Answers, names: Names
) -> dict[str, dict[str, Any]]:
    state = names.state(device, stream)
    found = {
        f"{stream}-{slug(label)}-value": _sensor(stream, label, answers.unit, state)
        for label in answers.labels
    }
    for label in answers.decides:
        found[f"{stream}-{slug(label)}-decision"] = _decision(stream, label, state)
    if answers.decides:
        found[f"{stream}-event"] = _event(stream, answers, names.event(device, stream))
    return found


def _sensor(stream: str, label: str, unit: str, topic: str) -> dict[str, Any]:
    about = {"unit_of_measurement": unit} if unit else {}
    return {
        "platform": "sensor",
        "name": f"{stream} {label}",
        "state_topic": topic,
        "value_template": f"{{{{ value_json['value']['{slug(label)}'] }}}}",
        "state_class": "measurement",
        **about,
    }


def _decision(stream: str, label: str, topic: str) -> dict[str, Any]:
    return {
        "platform": "binary_sensor",
        "name": f"{stream} {label} active",
        "state_topic": topic,
        "value_template": f"{{{{ value_json['active']['{slug(label)}'] }}}}",
    }


def _event(stream: str, answers: Answers, topic: str) -> dict[str, Any]:
    return {
        "platform": "event",
        "name": f"{stream} decision",
        "state_topic": topic,
        "event_types": [
            f"{label} {edge}" for label in answers.decides for edge in ("start", "end")
        ],
    }
