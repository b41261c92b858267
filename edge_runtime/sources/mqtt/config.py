"""Options of the MQTT source, checked when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.sources.instants import TimeFormat
from edge_runtime.sources.mqtt.path import parse_path
from edge_runtime.sources.suspects import Patience, Scales, check_scales

__all__ = ["ChannelConfig", "MqttConfig", "MqttTimeConfig"]

NotEmpty = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0)]

_MOST_TOPIC_BYTES = 65535


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the options: unknown keys are errors."""


class ChannelConfig(_Config, frozen=True):
    """Where one channel's values come from.

    Attributes:
        topic: Topic or filter with ``+`` and ``#``.
        path: Where the value stands in the JSON payload; nothing for a payload that
            is the value.
    """

    topic: NotEmpty
    path: str = ""

    def __post_init__(self) -> None:
        parse_path(self.path)
        if not _is_filter(self.topic):
            raise ConfigError(
                f"topic is {self.topic!r}",
                expected="a topic filter: '+' for one whole level, '#' as the last one",
                remedy="Correct the topic; shared subscriptions ($share/…) are not supported.",
            )


class MqttTimeConfig(_Config, frozen=True):
    """Where a message says when its values were measured.

    Attributes:
        path: Where the time stands, as in a channel.
        format: How it is written; without an offset ISO times are UTC.
    """

    path: NotEmpty
    format: TimeFormat = "iso"

    def __post_init__(self) -> None:
        parse_path(self.path)


class MqttConfig(_Config, frozen=True, kw_only=True):
    """Options of the MQTT source.

    Attributes:
        channels: Where each channel comes from.
        host: Name or address of the broker.
        port: Its TCP port.
        protocol: MQTT version.
        client_id: Must be this subscriber's alone; None draws one.
        username: Name to log in with.
        password_file: File with the password, mode 0600.
        ca_file: Certificates to trust, PEM; TLS is used when it is set.
        keepalive_s: Seconds between signs of life.
        qos: Delivery that is asked for.
        retained: Whether a broker's retained messages count; they may be old.
        readings: Where a list of readings stands in the payload; None for one reading.
        time: Where the time of a reading stands; None takes its arrival.
        timing: ``grid`` puts held values on an even grid, ``arrival`` makes every
            reading a sample.
        max_age_s: Longest time for which a value holds on the grid.
        delay_s: How far the grid runs behind the clock, so that late values find
            their place.
        queue: Messages that may wait; when full, the oldest gives way (``drop_oldest``).
        frozen_s: The same readings for so long are a fault; None never counts. On the
            grid held values repeat: it must be well above the time between messages.
        full_scale: Least and largest number of a channel; at either it is saturated.
        key: What names the device of a reading, where topics are of many: a level of the
            topic, counted from 0, or where it stands in the payload. None for one device.
    """

    channels: Annotated[dict[str, ChannelConfig], Meta(min_length=1)]
    host: NotEmpty = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: Literal["5", "3.1.1"] = "3.1.1"
    client_id: NotEmpty | None = None
    username: NotEmpty | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 30
    qos: Literal[0, 1, 2] = 0
    retained: bool = False
    readings: str | None = None
    time: MqttTimeConfig | None = None
    timing: Literal["grid", "arrival"] = "grid"
    max_age_s: Seconds = 60.0
    delay_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    queue: Annotated[int, Meta(ge=1, le=65536)] = 1024
    frozen_s: Patience = None
    full_scale: Scales = {}
    key: Annotated[int, Meta(ge=0)] | NotEmpty | None = None

    def __post_init__(self) -> None:
        self._check_key()
        check_scales(self.full_scale, tuple(self.channels))
        if self.readings is not None:
            parse_path(self.readings)
        if self.password_file is not None and self.username is None:
            raise ConfigError(
                "there is a password_file and no username",
                expected="both or neither",
                remedy="Add username.",
            )
        topics = sorted({channel.topic for channel in self.channels.values()})
        if self.timing == "arrival" and len(topics) > 1 and self.key is None:
            raise ConfigError(
                f"timing is 'arrival', and the channels come from {', '.join(topics)}",
                expected="one topic, each message of which holds all channels",
                remedy="Set timing to 'grid' to merge several topics.",
            )

    def _check_key(self) -> None:
        if isinstance(self.key, str):
            parse_path(self.key)
        if self.key is not None and (self.timing != "arrival" or self.frozen_s is not None):
            raise ConfigError(
                f"there is a key, timing is {self.timing!r}, and frozen_s is {self.frozen_s}",
                expected="timing 'arrival' and no frozen_s: both are of one device",
                remedy="Set timing to 'arrival', leave frozen_s out, and give the model a grid.",
            )

    @property
    def declared_key(self) -> str | int | None:
        """What names the device of a reading; None for one device."""
        return self.key

    @property
    def declared_channels(self) -> tuple[str, ...]:
        """Channels as declared."""
        return tuple(self.channels)


def _is_filter(topic: str) -> bool:
    """Source: MQTT 5.0, section 4.7.1 (wildcards) and 4.7.3 (length, no null character)."""
    *inner, last = topic.split("/")
    is_sound = all(level == "+" or not {"+", "#"} & set(level) for level in inner)
    is_short = len(topic.encode()) <= _MOST_TOPIC_BYTES and "\0" not in topic
    ends_well = last in ("+", "#") or not {"+", "#"} & set(last)
    return is_sound and is_short and ends_well and not topic.startswith("$share/")
