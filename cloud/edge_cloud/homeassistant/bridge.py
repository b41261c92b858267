"""Carries what devices say about themselves to where Home Assistant reads it.

Delivery: newest answers only, as `up/last` has them; whoever needs every decision reads
the store. Memory: one message per device and stream.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import msgspec

from edge_cloud.homeassistant.discovery import Names, discovery_of, slug
from edge_runtime.errors import WireError
from edge_runtime.ports import Connected, Message, Transport
from edge_runtime.sync.messages import Answers, Last, LastRow, Life, decode
from edge_runtime.sync.topics import Address, Topics

__all__ = ["Bridge", "BridgeStats"]

log = logging.getLogger(__name__)

_ONLINE, _OFFLINE = b"online", b"offline"
_EVENTS_PER_STEP = 256
_CONGESTED_S = 0.02


class BridgeStats(msgspec.Struct):
    """Counters since start.

    Attributes:
        devices: Devices announced.
        states_total: Newest answers passed on.
        refused_total: Messages that did not decode or spoke for another device.
    """

    devices: int = 0
    states_total: int = 0
    refused_total: int = 0


class Bridge:
    """Announces every device that says hello, and shows its newest answers.

    Thread: the one that calls ``step``.

    Args:
        transport: Not open yet.
        names: Topics of the bridge.
    """

    def __init__(self, transport: Transport, names: Names | None = None) -> None:
        self.transport = transport
        self._names = names or Names()
        self._topics = Topics(self._names.root)
        self._lives: dict[str, Life] = {}
        self._announced: dict[str, bytes] = {}
        self._rows: dict[tuple[str, str], LastRow] = {}
        self._to_send: dict[str, Message] = {}
        self.stats = BridgeStats()

    def open(self) -> None:
        """Connect; the will says that the bridge is gone, and so all devices are unavailable."""
        filters = [self._topics.every_up("life"), self._topics.every_up("last"), self._names.birth]
        self.transport.open(filters, Message(self._names.bridge, _OFFLINE, retain=True))

    def close(self) -> None:
        """Say good-bye and disconnect; safe to call twice."""
        self._publish(self._names.bridge, _OFFLINE)
        self._flush()
        self.transport.close()

    def step(self, timeout_s: float) -> None:
        """Wait for messages and pass on all that are there."""
        event = self.transport.receive(_CONGESTED_S if self._to_send else timeout_s)
        for _ in range(_EVENTS_PER_STEP):
            if event is None:
                break
            if isinstance(event, Connected):
                self._say_all()
            elif isinstance(event, Message):
                self._on_message(event)
            event = self.transport.receive(0.0)
        self._flush()

    def _flush(self) -> None:
        """Send the newest message of every topic, as many as the transport takes."""
        for topic in list(self._to_send):
            if not self.transport.publish(self._to_send[topic]):
                return
            del self._to_send[topic]

    # --- from devices ---------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        if message.topic == self._names.birth:
            if message.payload == _ONLINE:
                self._say_all()
            return
        try:
            self._on_device(self._topics.parse(message.topic), message.payload)
        except WireError as error:
            self.stats.refused_total += 1
            log.warning("homeassistant.refused", extra={"topic": message.topic, "why": str(error)})

    def _on_device(self, address: Address, payload: bytes) -> None:
        if not payload:
            if address.leaf == "life":
                self._forget(address.device)
            return
        if address.leaf == "life":
            life = decode(payload, Life)
            _check_sender(life.device, address)
            self._on_life(life)
        else:
            last = decode(payload, Last)
            _check_sender(last.device, address)
            for stream, row in last.streams.items():
                self._on_row(last.device, stream, row)

    def _on_life(self, life: Life) -> None:
        known = self._lives.get(life.device)
        if known is not None and not life.is_online:
            if known.incarnation == life.incarnation and life.epoch < known.epoch:
                return
            # A will was written when the link came up; what runs may have changed since.
            life = msgspec.structs.replace(known, is_online=False)
        self._lives[life.device] = life
        self._announce(life)
        self._say_availability(life)
        for device, stream in self._rows:
            if device == life.device:
                self._say_state(device, stream)

    def _on_row(self, device: str, stream: str, row: LastRow) -> None:
        before = self._rows.get((device, stream))
        self._rows[(device, stream)] = row
        self._say_state(device, stream)
        if before is not None:
            self._say_changes(device, stream, set(before.active), set(row.active))

    def _forget(self, device: str) -> None:
        """A device whose life was cleared is taken out of Home Assistant."""
        if self._lives.pop(device, None) is not None:
            self._announced.pop(device, None)
            self._publish(self._names.config(device), b"")
            self.stats.devices = len(self._lives)

    # --- to Home Assistant ------------------------------------------------------------

    def _say_all(self) -> None:
        self._announced.clear()
        self._publish(self._names.bridge, _ONLINE)
        for life in self._lives.values():
            self._announce(life)
            self._say_availability(life)
        for device, stream in self._rows:
            self._say_state(device, stream)

    def _announce(self, life: Life) -> None:
        payload = json.dumps(discovery_of(life, self._names)).encode()
        if self._announced.get(life.device) != payload:
            self._announced[life.device] = payload
            self._publish(self._names.config(life.device), payload)
            self.stats.devices = len(self._lives)

    def _say_availability(self, life: Life) -> None:
        state = _ONLINE if life.is_online else _OFFLINE
        self._publish(self._names.availability(life.device), state)

    def _say_state(self, device: str, stream: str) -> None:
        answers = self._answers(device, stream)
        if answers is not None:
            state = _state(self._rows[(device, stream)], answers)
            self._publish(self._names.state(device, stream), json.dumps(state).encode())
            self.stats.states_total += 1

    def _say_changes(self, device: str, stream: str, before: set[str], now: set[str]) -> None:
        answers = self._answers(device, stream)
        for label in answers.decides if answers else ():
            if (label in before) != (label in now):
                edge = "start" if label in now else "end"
                event = json.dumps({"event_type": f"{label} {edge}"}).encode()
                # Not retained: it would happen again at each start of Home Assistant.
                self.transport.publish(Message(self._names.event(device, stream), event))

    def _answers(self, device: str, stream: str) -> Answers | None:
        life = self._lives.get(device)
        return None if life is None else life.streams.get(stream)

    def _publish(self, topic: str, payload: bytes) -> None:
        self._to_send[topic] = Message(topic, payload, retain=True)


def _state(row: LastRow, answers: Answers) -> dict[str, Any]:
    """Return the newest answer in JSON; a value that is no number is null."""
    return {
        "time_ns": row.time_ns,
        "value": {
            slug(label): row.values[label] if math.isfinite(row.values[label]) else None
            for label in answers.labels
            if label in row.values
        },
        "active": {
            slug(label): "ON" if label in row.active else "OFF" for label in answers.decides
        },
        "quality": list(row.quality),
    }


def _check_sender(device: str, address: Address) -> None:
    if device != address.device:
        raise WireError(f"it speaks for {device!r}", where=f"{address.device}/{address.leaf}")
